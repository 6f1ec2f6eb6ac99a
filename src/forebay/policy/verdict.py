"""What a policy answers: it raises a `Refusal` for no, returns a `Lease` for yes, and a `Ticket` for wait."""

from collections.abc import Awaitable, Callable
from typing import Literal

# How an exchange ended, as leases and telemetry need to know it.
Outcome = Literal["answered", "refused", "failed", "cancelled"]


class Lease:
    """`held` of something, kept while a request runs and given back exactly once, with how the request ended."""

    __slots__ = ("_give_back", "_held")

    def __init__(self, give_back: Callable[[int, Outcome, float], None], held: int = 1) -> None:
        self._give_back: Callable[[int, Outcome, float], None] | None = give_back
        self._held = held

    def release(self, outcome: Outcome, now: float) -> None:
        """Give it back. Raises RuntimeError the second time: a lease released twice corrupts a counter."""
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            raise RuntimeError("a lease was released twice")
        give_back(self._held, outcome, now)


class Ticket(Lease):
    """A lease that need not be in force yet: `granted`, where it is not None, is to be awaited, and raises the refusal
    if nothing comes of it. It is released in any case."""

    __slots__ = ("granted",)

    granted: Awaitable[None] | None
