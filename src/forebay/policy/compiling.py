"""How many requests may a tenant have at once that engines compile something for? Counts, and a refusal.

An engine compiles schemas, patterns and grammars in a few threads, and one may take seconds: whoever sent them all at
once would have everybody else's wait behind his. A request counts from before its place in line until it is over.
"""

from functools import partial

from forebay.policy.verdict import Lease, Outcome
from forebay.refusals import RateLimited

_RETRY_S = 1.0


class Compiling:
    """Counts by tenant; `most` of them, or as many as there are where that is 0."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._running: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Compiling {self._running}>"

    def acquire(self, tenant: str) -> Lease:
        """One more. Raises `RateLimited`."""
        running = self._running.get(tenant, 0)
        if self.most and running >= self.most:
            raise self._refusal(running)
        self._running[tenant] = running + 1
        return Lease(partial(self._give_back, tenant))

    def _give_back(self, tenant: str, held: int, outcome: Outcome, now: float) -> None:
        left = self._running[tenant] - held
        if left:
            self._running[tenant] = left
        else:
            del self._running[tenant]

    def _refusal(self, running: int) -> RateLimited:
        told = f"The limit of {self.most} requests at once with a schema, pattern or grammar is reached."
        refusal = RateLimited(told, code="too_many_structured_requests", retry_after_s=_RETRY_S)
        refusal.limit = ("structured", "tenant")
        refusal.facts = {"limit": "structured", "scope": "tenant", "used": running, "of": self.most}
        return refusal
