"""What requests say: words by number of tokens, or the prompts of a file. Pure: the same draw gives the same prompts.

Synthetic prompts are common English words in random order, so that each is about one token in any tokenizer and no two
prompts share a prefix: the engine's prefix cache finds nothing. How many words make so many tokens is measured on the
server (`counting.py`) and given as `Scale`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

SHORTEST = 4  # characters: shorter ones in a file are greetings and slips
_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information "
    "back parent face others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education foot boy age policy music market sense effect need table "
    "river garden summer winter letter paper road light sound color field bird tree stone glass wood metal paint"
)
WORDS = _TEXT.split()


class NotPrompts(ValueError):
    """A file that holds no prompts; says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Tokens of a prompt: `overhead` (the chat template's), and `per_word` for each word."""

    overhead: float = 0.0
    per_word: float = 1.0

    def words(self, tokens: float) -> int:
        return max(round((tokens - self.overhead) / self.per_word), 1)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a user says, and how long the answer may be."""

    messages: tuple[dict[str, Any], ...]
    max_tokens: int

    @property
    def text(self) -> str:
        """For the completions endpoint, which knows no messages."""
        return "\n".join(str(message["content"]) for message in self.messages)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts and answers; `vary` 0.2 means between 80% and 120% of them, evenly."""

    prompt_tokens: int
    output_tokens: int
    vary: float = 0.0

    def drawn(self, tokens: int, draw: "Random") -> int:
        return max(round(tokens * draw.uniform(1 - self.vary, 1 + self.vary)), 1)


def said(text: str, max_tokens: int) -> Prompt:
    return Prompt(({"role": "user", "content": text},), max_tokens)


def synthetic(lengths: Lengths, scale: Scale, draw: "Random") -> Iterator[Prompt]:
    """Prompts without end, no two alike."""
    while True:
        words = scale.words(lengths.drawn(lengths.prompt_tokens, draw))
        yield said(" ".join(draw.choices(WORDS, k=words)), lengths.drawn(lengths.output_tokens, draw))


def shuffled(prompts: Sequence[Prompt], draw: "Random") -> Iterator[Prompt]:
    """The prompts in random order, again and again."""
    order = list(prompts)
    while True:
        draw.shuffle(order)
        yield from order


def read_prompts(text: str, output_tokens: int, tokens_per_character: float = 0.25) -> list[Prompt]:
    """The prompts of a file: a JSON list, or an object a line. Raises `NotPrompts`.

    An entry is ShareGPT's (`conversations`; the first turn asks, and the length of its answer is the answer's limit, as
    vLLM's benchmark takes them), or has `messages` or `prompt`, with `max_tokens` or not.
    """
    prompts = [prompt for entry in _entries(text) if (prompt := _prompt(entry, output_tokens, tokens_per_character))]
    if not prompts:
        raise NotPrompts("none of its entries has conversations, messages or prompt")
    return prompts


def _entries(text: str) -> list[Any]:
    try:
        if text.lstrip().startswith("["):
            entries: list[Any] = json.loads(text)
            return entries
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as wrong:
        raise NotPrompts(f"neither a JSON list nor JSON lines: {wrong}") from None


def _prompt(entry: Any, output_tokens: int, tokens_per_character: float) -> Prompt | None:
    if not isinstance(entry, dict):
        return None
    limit = entry.get("max_tokens")
    limit = limit if isinstance(limit, int) and limit > 0 else output_tokens
    match entry:
        case {"conversations": [{"value": str(asked)}, {"value": str(told)}, *_]}:
            if len(asked) < SHORTEST or len(told) < SHORTEST:
                return None
            return said(asked, max(round(len(told) * tokens_per_character), 1))
        case {"messages": [dict(), *_] as messages}:
            return Prompt(tuple(messages), limit)
        case {"prompt": str(asked)} if asked:
            return said(asked, limit)
    return None
