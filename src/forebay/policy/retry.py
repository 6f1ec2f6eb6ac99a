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
most a fifth of recent requests, and a few a second where there is little traffic; a tenant's a fifth of its own, so
that one whose requests all fail leaves the others theirs. It also bounds what a request costs
that fails everywhere: nobody can tell it from an engine that fails.
"""

from forebay.failures import Failure

RETRY_SHARE = 0.2
RETRIES_PER_S = 1.0
MOST_SAVED = 100.0
SAVED_AT_FIRST = 5.0
MOST_TENANTS = 10_000
RETRIED_FROM_STATUS = 500


def is_stale_connection(failure: Failure) -> bool:
    """Whether the failure is the race of keep-alive: a reused connection closed before any answer."""
    return failure.kind == "closed" and failure.stale


def is_loss(failure: Failure) -> bool:
    """Whether the engine went away while it worked, rather than answered badly or late."""
    return failure.kind in ("closed", "stalled")


class _Purse:
    """What is saved: a share of each request, and a little by time, up to a bound."""

    __slots__ = ("at", "most", "per_s", "saved")

    def __init__(self, per_s: float, most: float) -> None:
        self.per_s = per_s
        self.most = most
        self.saved = min(SAVED_AT_FIRST, most)
        self.at = 0.0

    def has_one(self, now: float) -> bool:
        """Whether a retry can be paid for."""
        if self.at:
            self.saved = min(self.saved + (now - self.at) * self.per_s, self.most)
        self.at = now
        return self.saved >= 1.0


class RetryBudget:
    """What may be spent on retries. All tenants have one purse together, and each its own: a retry is paid for from
    both. A tenant's own holds what its requests saved, half of what time saves and half of the most, so that one
    whose requests all fail leaves retries to the others."""

    def __init__(self, share: float = RETRY_SHARE, per_s: float = RETRIES_PER_S, most: float = MOST_SAVED) -> None:
        self._share = share
        self._all = _Purse(per_s, most)
        self._own: dict[str, _Purse] = {}

    def __repr__(self) -> str:
        return f"<RetryBudget {self._all.saved:.1f} saved, {len(self._own)} tenants>"

    def asked(self, tenant: str) -> None:
        """A request came in."""
        everybody = self._all
        if everybody.saved < everybody.most:
            everybody.saved += self._share
        own = self._own.get(tenant) or self._open(tenant)
        if own.saved < own.most:
            own.saved += self._share

    def spend(self, tenant: str, now: float) -> bool:
        """Whether a retry may be made now; if so, it is paid for."""
        everybody, own = self._all, self._own.get(tenant) or self._open(tenant)
        if not (everybody.has_one(now) and own.has_one(now)):
            return False
        everybody.saved -= 1.0
        own.saved -= 1.0
        return True

    def _open(self, tenant: str) -> _Purse:
        while len(self._own) >= MOST_TENANTS:
            del self._own[next(iter(self._own))]
        own = self._own[tenant] = _Purse(self._all.per_s / 2, self._all.most / 2)
        return own
