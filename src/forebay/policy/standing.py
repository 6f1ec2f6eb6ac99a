"""Is the queue a burst's, or does it stand? A burst's is soon gone; one that stays only makes everybody late.

Engines do as much behind a short queue as behind a long one, so one that has not been empty for `after_s` is kept
short: newcomers who would wait for longer than `target_s` are refused, until for `after_s` nobody had to be. That is
controlled delay: Nichols and Jacobson, "Controlling Queue Delay" (ACM Queue, 2012); for requests, with the same test of
a queue that was not empty, Maurer, "Fail at Scale" (ACM Queue, 2015). The second half is ours: a short queue is empty
now and then though the overload goes on, and must not be let grow each time.
"""

from math import inf


class Standing:
    """One queue. `began` and `refused` are told; `most_wait_s` is asked where somebody waits."""

    __slots__ = ("_since", "_until", "after_s", "target_s")

    def __init__(self, target_s: float, after_s: float) -> None:
        self.target_s = target_s
        self.after_s = after_s
        self._since = inf
        self._until = -inf

    def __repr__(self) -> str:
        return f"<Standing since {self._since:g}, kept short until {self._until:g}>"

    def began(self, now: float) -> None:
        """Somebody waits, and before nobody did."""
        self._since = now

    def refused(self, now: float) -> None:
        """Somebody would have waited for too long."""
        self._until = now + self.after_s

    def most_wait_s(self, now: float) -> float:
        """For how long a newcomer may have to wait."""
        return self.target_s if now - self._since > self.after_s or now < self._until else inf
