"""How much may engines have to read? The prompts that they were sent and have not begun to answer.

An engine reads prompts in the order they come, and whoever comes behind many long ones waits for all of them, whoever's
turn it was here. So engines are sent no more than they read in about `target_s`, or `FEWEST_TOKENS`; what is beyond
waits in line, where the order is by who was served least. A prompt that is larger than that goes alone.

How fast they read is measured: what was unread when a prompt was sent, itself included, by the time to its first token.
A whole answer tells that only where its engine does (`wire/timings.py`). Its prompt is presumed to be read when, by
that rate, it should be; while no rate is known, it counts for nothing. A stream's is waited for four times as long, and
then presumed to be read as well: an engine that hangs must not keep the others' prompts away from them.
"""

from math import inf

from forebay.policy.verdict import Ticket

FEWEST_TOKENS = 2048  # a batch of vLLM's, unless it is told otherwise: with less, it may have nothing to do
ENOUGH_TOKENS = FEWEST_TOKENS // 2  # a first token behind fewer says more of the engine's steps than of its reading
FRESH_S = 30.0  # for as long as this without a new one, a rate is believed
_KEPT = 7 / 8  # of what was measured before, with each new measure
_LATE = 4.0  # a stream is presumed to be read after so many times what it should take
_UNKNOWN_S = 10.0  # and after this where that is not known


class Prompt(Ticket):
    """One request's prompt. `unread` are its tokens from when an engine is sent it until it is read, else 0; `backlog`
    what was unread when it was sent, itself included."""

    __slots__ = ("backlog", "unread")

    backlog: int
    unread: int


class Prefill:
    """The unread prompts of one model's engines. `most` is how many tokens they may be, new ones included."""

    __slots__ = ("_measured_at", "_target_s", "_tokens", "_took_s", "_uncounted", "_until", "most", "unread")

    def __init__(self) -> None:
        self.unread = 0
        self.most = inf
        self._target_s = inf
        self._uncounted = 0  # tokens of whole answers sent while no rate was known
        self._until: dict[Prompt, float] = {}  # when each that counts is presumed to be read
        self._tokens = 0.0
        self._took_s = 0.0
        self._measured_at = -inf

    def __repr__(self) -> str:
        return f"<Prefill {self.unread}/{self.most:.0f} tokens>"

    def follow(self, target_s: float) -> None:
        """Bound them to what is read in so many seconds; infinite for no bound."""
        self._target_s = target_s
        self._bound()

    def has_room(self, tokens: int) -> bool:
        return self.unread + tokens <= self.most or not self.unread

    def sent(self, prompt: Prompt, tokens: int, now: float, *, stream: bool) -> None:
        """An engine is sent a prompt; its answer comes as a stream, or whole."""
        if not tokens:
            return
        prompt.unread = tokens
        known = self._took_s > 0
        if stream or known:
            self.unread += tokens
        else:
            self._uncounted += tokens
        prompt.backlog = self.unread + self._uncounted
        if known:
            takes_s = prompt.backlog * self._took_s / self._tokens
            self._until[prompt] = now + (_LATE * max(takes_s, self._target_s) if stream else takes_s)
        elif stream:
            self._until[prompt] = now + _UNKNOWN_S

    def read(self, prompt: Prompt, now: float, took_s: float | None) -> None:
        """It has been read, after so many seconds where that is known; or nobody waits for that any more."""
        self._forget(prompt)
        if took_s and took_s > 0 and prompt.backlog >= ENOUGH_TOKENS:
            self._tokens = self._tokens * _KEPT + prompt.backlog
            self._took_s = self._took_s * _KEPT + took_s
            self._measured_at = now
            self._bound()

    def sweep(self, now: float) -> None:
        """Presume what has to be; believe in no rate for too long. Called a few times a second."""
        for prompt in [prompt for prompt, until in self._until.items() if until <= now]:
            self._forget(prompt)
        if self._took_s and now - self._measured_at > FRESH_S:
            self._tokens = self._took_s = 0.0
            self._bound()

    def _forget(self, prompt: Prompt) -> None:
        """It counts for nothing any more."""
        if self._until.pop(prompt, None) is None:
            self._uncounted -= prompt.unread
        else:
            self.unread -= prompt.unread
        prompt.unread = 0

    def _bound(self) -> None:
        if self._target_s == inf:
            self.most = inf
        elif self._took_s:
            self.most = max(FEWEST_TOKENS, self._target_s * self._tokens / self._took_s)
        else:
            self.most = FEWEST_TOKENS
