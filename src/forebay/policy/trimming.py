"""How much of a conversation fits the model's context? The oldest turns go, a question and its answer at a time; what
the system was told and the newest question stay.

Only the engine can count: what a message takes depends on the model's template and on the others. A count costs a call,
so there are few of them. Where the last turn's figures show that nothing can be too long, none is needed. Where
something must go, more goes than need be, down to three quarters of the room: the next turns then begin alike, and the
engine knows their beginning (its prefix cache). So as not to forget for good what once was in the way of a long answer,
less than half of the room is never left unused while there are older turns to fill it.
"""

from collections.abc import Generator, Sequence
from itertools import accumulate
from typing import Protocol

GUESSES = 3  # then the middle is asked for, so that the number of counts is bounded
FIRST_FRAME_TOKENS = 512  # what a template may add to a first question
FRAME_TOKENS = 64  # and to each later one


class Answered(Protocol):
    """The last answer's figures."""

    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...


def room_for_prompt(context: int, max_tokens: int) -> int:
    """How many tokens a prompt may have where an answer may have `max_tokens`; at least half of the context."""
    return max(context - max_tokens, context // 2)


def most_tokens(system: str, question: str, last: Answered | None) -> int | None:
    """What the next prompt can have at most, if it begins as the last one did; None where that is not known. A token
    is a byte at least."""
    if last is None:
        return len(system.encode()) + len(question.encode()) + FIRST_FRAME_TOKENS
    if last.prompt_tokens is None or last.completion_tokens is None:
        return None
    return last.prompt_tokens + last.completion_tokens + len(question.encode()) + FRAME_TOKENS


def is_settled(tokens: int, cut: int, room: int) -> bool:
    """Whether a prompt without the first `cut` turns can stay as it is."""
    return tokens <= room and (cut == 0 or tokens > room // 2)


def choose_cut(fixed: int, sizes: Sequence[int], cut: int, room: int) -> Generator[int, int, int | None]:
    """How many of the oldest turns to leave out; None where the rest is too long without any.

    Yields cuts to be counted and is sent their tokens. `fixed` is the size of what stays and `sizes` are those of the
    turns, bytes; `cut` is what the last prompt left out.
    """
    after = [fixed + rest for rest in accumulate(reversed(sizes), initial=0)][::-1]  # the size behind each cut
    longest, fitting = -1, len(sizes) + 1  # a cut known to be too little, and one known to do
    asked = 0
    while True:
        tokens = yield cut
        asked += 1
        if tokens > room:
            longest = cut
        elif is_settled(tokens, cut, room) or cut == longest + 1:
            return cut
        else:
            fitting = cut
        if longest == len(sizes):
            return None
        if fitting == longest + 1 and fitting <= len(sizes):
            return fitting
        last = min(fitting - 1, len(sizes))  # the next is from behind `longest` up to this
        guess = (
            _guess(after, tokens / after[cut], room) if asked <= GUESSES and after[cut] else (longest + last + 1) // 2
        )
        cut = min(max(guess, longest + 1), last)


def _guess(after: Sequence[int], tokens_a_byte: float, room: int) -> int:
    """The first cut that should come down to three quarters of the room."""
    wanted = room * 3 / 4
    return next((cut for cut, size in enumerate(after) if size * tokens_a_byte <= wanted), len(after) - 1)
