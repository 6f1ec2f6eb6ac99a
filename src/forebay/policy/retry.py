"""Once more? Only as a small share of what is asked anyway; and in full where an engine was lost.

Three things are not the same:

*A stale connection.* A kept-alive connection that the engine closed while our request was on its way says nothing
about the engine; the request is sent once more on a fresh connection. It is no attempt and costs no budget.

*A lost engine.* It was in good standing when it was asked, then it died, was stopped, or stalled; or whatever its
standing, it failed when a part of its answer was with the caller. What it was working on goes to another one, or waits
for it to come back; each request at most a few times. That needs no budget: it happens once a loss, and an engine that
goes on failing is in good standing no longer.

*A failed attempt.* No connection, a time-out, an answer that is none, or one that says 500 or more. Another replica is
asked, if there is one, attempts are left, the request's deadline has not come, and the budget allows it. A budget,
because retries that are counted a request multiply an overload (Google SRE book, "Handling Overload"): here they are at
most a fifth of recent requests, and a few a second where there is little traffic. It also bounds what a request costs
that fails everywhere: nobody can tell it from an engine that fails.
"""

from forebay.failures import Failure

RETRY_SHARE = 0.2
RETRIES_PER_S = 1.0
MOST_SAVED = 100.0
SAVED_AT_FIRST = 5.0
RETRIED_FROM_STATUS = 500


def is_stale_connection(failure: Failure) -> bool:
    """Whether the failure is the race of keep-alive: a reused connection closed before any answer."""
    return failure.kind == "closed" and failure.stale


def is_loss(failure: Failure) -> bool:
    """Whether the engine went away while it worked, rather than answered badly or late."""
    return failure.kind in ("closed", "stalled")


class RetryBudget:
    """What may be spent on retries: every request saves a share of one, time saves a little, a retry spends one."""

    def __init__(self, share: float = RETRY_SHARE, per_s: float = RETRIES_PER_S, most: float = MOST_SAVED) -> None:
        self._share = share
        self._per_s = per_s
        self._most = most
        self._saved = min(SAVED_AT_FIRST, most)
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<RetryBudget {self._saved:.1f} saved>"

    def asked(self) -> None:
        """A request came in."""
        if self._saved < self._most:
            self._saved += self._share

    def spend(self, now: float) -> bool:
        """Whether a retry may be made now; if so, it is paid for."""
        self._saved = min(self._saved + (now - self._at) * self._per_s, self._most) if self._at else self._saved
        self._at = now
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
