"""Does an engine have work, and does it get on with it? From its own figures and our probes. Pure.

For a process through which no traffic goes: it reads the engine's /metrics from time to time. Whether it has stalled is
`policy/progress.py`'s decision; here is what it needs to know, since when work is pending.

    requests running or waiting            pending since the first reading that showed them
    a reading failed                       nothing changes: that is no idleness, and no work either
    it takes no connection                 whatever it had is lost; that it died is for its health check to say
    nothing happened for `idle_probe_s`    a probe is due: one token; while unanswered it is pending work like any other
    pending, no step for half the stall    a probe is due too: vLLM's gauges are those of its latest step, so they lag

An engine whose figures were never read is not probed: a queue that we cannot see could hold the probe up.
"""

from forebay.policy.progress import Progress


class Work:
    """One engine's, from when it became ready. Times are monotonic seconds."""

    def __init__(self, stall_s: float, idle_probe_s: float, now: float) -> None:
        self._progress = Progress(stall_s)
        self._idle_probe_s = idle_probe_s
        self._steps: float | None = None
        self._quiet_since = now
        self._pending_since: float | None = None
        self._asked_at: float | None = None

    def __repr__(self) -> str:
        return f"<Work pending since {self._pending_since}, asked {self._asked_at}, quiet since {self._quiet_since}>"

    def read(self, requests: float, steps: float, now: float) -> None:
        """Its figures: requests running or waiting, and the step counter."""
        self._progress.counted(steps, now)
        begins = requests > 0 and self._pending_since is None
        if steps != self._steps or begins:
            self._quiet_since = now
        self._steps = steps
        if begins:
            self._pending_since = now
        elif not requests:
            self._pending_since = None

    def refused(self, now: float) -> None:
        """It takes no connection."""
        self._pending_since = self._asked_at = None
        self._quiet_since = now

    def excuse(self, now: float) -> None:
        """Nobody looked for a while: count its silence from now on."""
        self._progress.moved(now)

    def computed(self, busy_s: float, now: float) -> None:
        """How long its threads have computed, or waited for a processor."""
        self._progress.computed(busy_s, now)

    def probe_due(self, now: float) -> bool:
        """Whether to ask for one token."""
        if self._steps is None or self._asked_at is not None:
            return False
        busy = self._pending_since is not None
        return now - self._quiet_since >= (self._progress.stall_s / 2 if busy else self._idle_probe_s)

    def asked(self, now: float) -> None:
        """A token was asked for."""
        self._asked_at = now

    def answered(self, now: float) -> None:
        """It came."""
        self._asked_at = None
        self._quiet_since = now
        self._progress.moved(now)

    def stalled_for(self, now: float) -> float | None:
        """How long it has had work and made no progress, if it has stalled."""
        begun = [since for since in (self._pending_since, self._asked_at) if since is not None]
        since = min(begun, default=None)
        return now - since if since is not None and self._progress.stalled(since, now) else None
