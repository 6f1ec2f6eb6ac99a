"""How long to wait before a crashed engine is started again, and when to try but seldom. Pure.

The first start waits 0 s; then 1, 2, 4 … s up to a limit, each shortened by up to a quarter at random so that engines
that crashed together do not start together. Crashes older than the window are forgotten, so an engine that has run
well for that long starts afresh.

One that has crashed as often as allowed is given up for as long as the window, and each time again for twice as long,
up to an hour: whatever it lacked may have come back, and nobody may be there to see. In between it is started once.
"""

from collections.abc import Callable

FIRST_S = 1.0
JITTER = 0.25
LONGEST_GIVEN_UP_S = 3600.0


class Backoff:
    """Counts crashes over a sliding window. `random` returns numbers from 0 to 1."""

    def __init__(self, *, max_s: float, limit: int, window_s: float, random: Callable[[], float]) -> None:
        self.limit = limit
        self._max_s = max_s
        self._window_s = window_s
        self._random = random
        self._crashes: list[float] = []
        self._given_up = 0  # times in a row

    def __repr__(self) -> str:
        return f"<Backoff {len(self._crashes)}/{self.limit} crashes>"

    def crashed(self, now: float) -> None:
        """Count a crash."""
        self._forget(now)
        if not self._crashes:
            self._given_up = 0
        self._crashes.append(now)

    def looping(self, now: float) -> bool:
        """Whether it has crashed as often as allowed."""
        self._forget(now)
        return len(self._crashes) >= self.limit

    def delay_s(self, now: float) -> float:
        """Seconds to wait before the next start."""
        self._forget(now)
        if not self._crashes:
            return 0.0
        exponent = min(len(self._crashes) - 1, 30)
        longest = min(FIRST_S * 2.0**exponent, self._max_s)
        return float(longest * (1.0 - JITTER * self._random()))

    def give_up(self) -> float:
        """Seconds for which it is left alone."""
        pause_s = min(self._window_s * 2.0 ** min(self._given_up, 30), max(LONGEST_GIVEN_UP_S, self._window_s))
        self._given_up += 1
        return pause_s * (1.0 - JITTER * self._random())

    def try_once(self, now: float) -> None:
        """One more crash within the window, and it is given up again."""
        self._crashes = [now] * (self.limit - 1)

    def _forget(self, now: float) -> None:
        self._crashes = [at for at in self._crashes if now - at < self._window_s]
