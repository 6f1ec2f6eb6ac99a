"""How long to wait before a crashed engine is started again, and when to stop trying. Pure.

The first start waits 0 s; then 1, 2, 4 … s up to a limit, each shortened by up to a quarter at random so that engines
that crashed together do not start together. Crashes older than the window are forgotten, so an engine that has run
well for that long starts afresh.
"""

from collections.abc import Callable

FIRST_S = 1.0
JITTER = 0.25


class Backoff:
    """Counts crashes over a sliding window. `random` returns numbers from 0 to 1."""

    def __init__(self, *, max_s: float, limit: int, window_s: float, random: Callable[[], float]) -> None:
        self.limit = limit
        self._max_s = max_s
        self._window_s = window_s
        self._random = random
        self._crashes: list[float] = []

    def __repr__(self) -> str:
        return f"<Backoff {len(self._crashes)}/{self.limit} crashes>"

    def crashed(self, now: float) -> None:
        """Count a crash."""
        self._forget(now)
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

    def _forget(self, now: float) -> None:
        self._crashes = [at for at in self._crashes if now - at < self._window_s]
