"""What each tenant asks for, in a bounded number of series: the most active tenants by name, all others together.

There may be any number of tenants, and each of them named would be series for ever. So `most` are named, first come;
and every `TURN_S` those that were more active than the least active of the named take their places, some at a time. A
tenant that floods is named within that time. One that loses its name loses its counters too, and begins at zero if it
comes back, which Prometheus takes for a restart.

Activity is requests and thousands of tokens. That of a named tenant is what came since the turn before, and half of
what it was then; that of the others is counted within one turn, of `CANDIDATES` of them at most.
"""

from collections.abc import Iterable
from heapq import nlargest, nsmallest

OTHER = "other"
TURN_S = 10.0
CANDIDATES = 10_000
CHANGES_A_TURN = 10
LEAST_ACTIVITY = 10.0
_MEMORY = 0.5


class TenantCounts:
    """What one tenant's requests came to. `activity` is as of the latest turn, `work` all that was counted by then."""

    __slots__ = ("activity", "prompt_tokens", "refusals", "requests", "tokens", "work")

    def __init__(self) -> None:
        self.requests = 0
        self.refusals = 0
        self.prompt_tokens = 0
        self.tokens = 0
        self.activity = 0.0
        self.work = 0.0

    def turn(self) -> None:
        """Tell the activity anew."""
        work = self.requests + (self.prompt_tokens + self.tokens) / 1000
        self.activity = self.activity * _MEMORY + work - self.work
        self.work = work


class TenantFigures:
    """Told of each request that is over; `turn` has to be called now and then."""

    def __init__(self, most: int) -> None:
        self.others = TenantCounts()
        self.named: dict[str, TenantCounts] = {}
        self._most = most
        self._candidates: dict[str, float] = {}
        self._turned_at = 0.0

    def __repr__(self) -> str:
        return f"<TenantFigures {len(self.named)}/{self._most} named>"

    def ended(self, tenant: str, prompt_tokens: int, tokens: int, refused: bool) -> None:
        """A request is over."""
        counts = self.named.get(tenant)
        if counts is None:
            if not self._most:
                return
            counts = self._unnamed(tenant, prompt_tokens + tokens)
        counts.requests += 1
        counts.prompt_tokens += prompt_tokens
        counts.tokens += tokens
        if refused:
            counts.refusals += 1

    def turn(self, now: float) -> None:
        """Give names to those who have become more active than others; does nothing before it is time."""
        if now - self._turned_at < TURN_S:
            return
        self._turned_at = now
        for counts in self.named.values():
            counts.turn()
        newcomers = nlargest(CHANGES_A_TURN, self._candidates.items(), key=lambda pair: pair[1])
        quietest = nsmallest(CHANGES_A_TURN, self.named.items(), key=lambda pair: pair[1].activity)
        for (newcomer, activity), (name, counts) in zip(newcomers, quietest, strict=False):
            if activity < max(LEAST_ACTIVITY, 2 * counts.activity):
                break
            del self.named[name]
            self.named[newcomer] = TenantCounts()
            self.named[newcomer].activity = activity
        self._candidates.clear()

    def all(self) -> list[tuple[str, TenantCounts]]:
        """Every series: its label, and its counts."""
        return [*self.named.items(), (OTHER, self.others)] if self._most else []

    def of_waiting(self, waiting: Iterable[tuple[str, int]]) -> dict[str, int]:
        """How many wait of each tenant, with the same names."""
        counts = dict.fromkeys((name for name, _ in self.all()), 0)
        for tenant, number in waiting if counts else ():
            counts[tenant if tenant in counts else OTHER] += number
        return counts

    def _unnamed(self, tenant: str, tokens: int) -> TenantCounts:
        """The counts for a tenant that has no name here: its own, if there is room, else those of all the others."""
        if tenant == OTHER:
            return self.others
        if len(self.named) < self._most:
            counts = self.named[tenant] = TenantCounts()
            return counts
        known = self._candidates.get(tenant)
        if known is not None or len(self._candidates) < CANDIDATES:
            self._candidates[tenant] = (known or 0.0) + 1 + tokens / 1000
        return self.others
