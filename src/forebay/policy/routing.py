"""Which replica? The ready one with the fewest requests under way; among equals the one that was not asked last.

Replicas whose breaker is open are left out, unless so many are that leaving them out would throw the whole load at
the few that remain, or at none: below a share of `PANIC_SHARE` that may be asked, all ready ones are asked (Envoy's
panic threshold). A pool of one is therefore never closed off by its breaker.

Of a large pool a window of `WINDOW` replicas is looked at, further on each time: the least busy of sixteen is nearly
the least busy of all (Mitzenmacher, The Power of Two Choices, 2001), at a cost that does not grow.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from forebay.policy.breaker import Breaker
from forebay.refusals import EngineUnavailable

PANIC_SHARE = 0.5
WINDOW = 16


class Candidate(Protocol):
    """What routing needs to know of a replica."""

    @property
    def ready(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def breaker(self) -> Breaker: ...


C = TypeVar("C", bound=Candidate)


class LeastOutstanding:
    """Chooses by requests under way, starting its search further on each time so that ties are shared out."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, replicas: Sequence[C], now: float, avoid: C | None = None) -> C:
        """Return the best replica, never `avoid`. Raises `EngineUnavailable`."""
        size = len(replicas)
        best = None
        if size > WINDOW:
            self._turn += WINDOW
            best = self._best([replicas[(self._turn + n) % size] for n in range(WINDOW)], now, avoid)
        if best is None:
            self._turn += 1
            best = self._best([replicas[(self._turn + n) % size] for n in range(size)], now, avoid)
        if best is None:
            raise EngineUnavailable(
                "No engine is ready for this model: it is starting, restarting or stopped. Try again shortly.",
                retry_after_s=5,
            )
        return best

    def _best(self, replicas: Sequence[C], now: float, avoid: C | None) -> C | None:
        ready = allowed = 0
        best: C | None = None
        anyone: C | None = None
        for replica in replicas:
            if not replica.ready or replica.draining:
                continue
            ready += 1
            may_ask = replica.breaker.may_ask(now)
            allowed += may_ask
            if replica is avoid:
                continue
            if may_ask and (best is None or replica.in_flight < best.in_flight):
                best = replica
            if anyone is None or replica.in_flight < anyone.in_flight:
                anyone = replica
        return best if best is not None and allowed >= PANIC_SHARE * ready else anyone
