"""Which replica? The ready one with the fewest requests under way; among equals the one that was not asked last."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from forebay.refusals import EngineUnavailable


class Candidate(Protocol):
    """What routing needs to know of a replica."""

    @property
    def ready(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class LeastOutstanding:
    """Chooses by requests under way, starting its search one further each time so that ties are shared out."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, replicas: Sequence[C], avoid: C | None = None) -> C:
        """Return the best replica, `avoid` only where no other is ready. Raises `EngineUnavailable`."""
        best: C | None = None
        self._turn += 1
        for offset in range(len(replicas)):
            replica = replicas[(self._turn + offset) % len(replicas)]
            if not replica.ready or replica.draining or replica is avoid:
                continue
            if best is None or replica.in_flight < best.in_flight:
                best = replica
        if best is not None:
            return best
        if avoid is not None and avoid.ready and not avoid.draining:
            return avoid
        raise EngineUnavailable(
            "No engine is ready for this model: it is starting, restarting or stopped. Try again shortly.",
            retry_after_s=5,
        )
