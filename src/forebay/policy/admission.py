"""Is there room now? A bound on the requests relayed at once; beyond it a request is refused before any work."""

from forebay.policy.verdict import Lease, Outcome
from forebay.refusals import Overloaded


class Admission:
    """Counts running requests against a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0

    def __repr__(self) -> str:
        return f"<Admission {self.running}/{self.limit}>"

    def acquire(self) -> Lease:
        """Take a place. Raises `Overloaded`."""
        if self.running >= self.limit:
            raise Overloaded(
                f"The service is busy with {self.limit} requests, as many as it takes. Try again shortly.",
                retry_after_s=1,
            )
        self.running += 1
        return Lease(self._release)

    def _release(self, held: int, outcome: Outcome, now: float) -> None:
        self.running -= held
