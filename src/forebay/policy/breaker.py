"""Is it worth asking this replica? A circuit breaker. Pure: the clock is an argument.

    closed     all may ask. Opens after `consecutive` failures in a row, or when of at least `min_requests` attempts in
               the last `window_s` seconds a share of `ratio` failed.
    open       nobody asks until the pause is over: `pause_s`, doubled each time a trial fails, at most `max_pause_s`.
    half_open  one trial at a time. It succeeds: closed. It fails: open again. It is cancelled: another may try.

The idea is Nygard's (Release It!, 2007); two windows of half the length each stand for the sliding one, so that an
attempt costs two additions.
"""

from dataclasses import dataclass
from enum import Enum


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_CLOSED, _OPEN, _HALF_OPEN = BreakerState  # names without a dot: these are compared for every request


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When to open and for how long; counts, shares and seconds."""

    consecutive: int = 5
    ratio: float = 0.5
    min_requests: int = 20
    window_s: float = 30.0
    pause_s: float = 5.0
    max_pause_s: float = 60.0


class Breaker:
    """One replica's. Ask `may_ask`; tell `asked` when it is chosen, then one of `succeeded`, `failed` and `left`."""

    __slots__ = (
        "_attempts",
        "_failures",
        "_in_a_row",
        "_pause_s",
        "_reopens_at",
        "_trial",
        "_window_at",
        "limits",
        "state",
    )

    def __init__(self, limits: BreakerLimits | None = None) -> None:
        self.limits = limits or BreakerLimits()
        self.state = _CLOSED
        self._in_a_row = 0
        self._attempts = [0, 0]  # this half of the window, and the one before
        self._failures = [0, 0]
        self._window_at = 0.0
        self._pause_s = self.limits.pause_s
        self._reopens_at = 0.0
        self._trial = False

    def __repr__(self) -> str:
        failed = f"{sum(self._failures)}/{sum(self._attempts)} failed, {self._in_a_row} in a row"
        return f"<Breaker {self.state.value} {failed}>"

    def may_ask(self, now: float) -> bool:
        """Whether a request may go to the replica now; changes nothing."""
        if self.state is _CLOSED:
            return True
        if self.state is _OPEN:
            return now >= self._reopens_at
        return not self._trial

    def asked(self, now: float) -> None:
        """A request goes to the replica, whether the breaker would have it (panic) or not."""
        if self.state is _CLOSED:
            return
        if self.state is _OPEN and now >= self._reopens_at:
            self.state = _HALF_OPEN
        if self.state is _HALF_OPEN:
            self._trial = True

    def succeeded(self, now: float) -> None:
        """An attempt was answered."""
        if now - self._window_at >= self.limits.window_s / 2:
            self._turn(now)
        self._attempts[0] += 1
        self._in_a_row = 0
        if self.state is not _CLOSED:
            self._close()

    def failed(self, now: float) -> None:
        """An attempt failed on the replica's side."""
        if now - self._window_at >= self.limits.window_s / 2:
            self._turn(now)
        self._attempts[0] += 1
        self._failures[0] += 1
        self._in_a_row += 1
        if self.state is _HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, self.limits.max_pause_s)
            self._open(now)
        elif self.state is _CLOSED and self._is_bad():
            self._open(now)

    def left(self, now: float) -> None:
        """An attempt ended without telling anything of the replica: the client went away."""
        self._trial = False

    def renew(self) -> None:
        """Another engine is at the replica's place now."""
        self._close()
        self._in_a_row = 0

    def _is_bad(self) -> bool:
        limits, attempts = self.limits, sum(self._attempts)
        if self._in_a_row >= limits.consecutive:
            return True
        return attempts >= limits.min_requests and sum(self._failures) >= limits.ratio * attempts

    def _open(self, now: float) -> None:
        self.state = _OPEN
        self._reopens_at = now + self._pause_s
        self._trial = False

    def _close(self) -> None:
        self.state = _CLOSED
        self._pause_s = self.limits.pause_s
        self._trial = False
        self._attempts, self._failures = [0, 0], [0, 0]

    def _turn(self, now: float) -> None:
        """Begin the other half of the window."""
        fresh = now - self._window_at < self.limits.window_s
        self._attempts = [0, self._attempts[0] if fresh else 0]
        self._failures = [0, self._failures[0] if fresh else 0]
        self._window_at = now
