"""Is it stalled? Work is pending and nothing moves. Pure: the clock is an argument.

`/health` cannot tell: vLLM answers it with 200 while its engine core hangs, and late while it is merely busy. What can
is progress, from two sources: bytes that we relay, and the engine's own step counter
(`vllm:iteration_tokens_total_count`), which moves at every step, those of a long prefill included.

    nothing pending                        not stalled, however long nothing moved
    something moved within `stall_s`       not stalled
    the counter was read since, unmoved    stalled
    nothing could be read                  stalled only after twice the time: silence is weaker evidence

An engine whose threads are seen computing, or waiting for a processor that others use, is given `BUSY_FACTOR` times as
long: a long step looks like that (a CPU's prefill can take ten seconds; more on a crowded machine), and so does a
deadlock that spins, but a stopped process does not.
"""

BUSY_FACTOR = 3
BUSY_SHARE = 0.2  # of the time, from which on an engine counts as computing


class Progress:
    """One engine's. Tell it what moves; ask `stalled`. Times are monotonic seconds."""

    __slots__ = ("_busy_at", "_busy_s", "_counter", "_counter_read_at", "_looked_at", "_moved_at", "stall_s")

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self._moved_at = 0.0
        self._counter = -1.0
        self._counter_read_at = 0.0
        self._busy_s = 0.0
        self._looked_at = 0.0
        self._busy_at: float | None = None

    def __repr__(self) -> str:
        return f"<Progress moved at {self._moved_at:.1f}, counter {self._counter:g}>"

    def moved(self, now: float) -> None:
        """Bytes of an answer came; perhaps told only later."""
        if now > self._moved_at:
            self._moved_at = now

    def counted(self, steps: float, now: float) -> None:
        """The engine's step counter was read."""
        if steps != self._counter:
            self._counter = steps
            self._moved_at = now
        self._counter_read_at = now

    def computed(self, busy_s: float, now: float) -> None:
        """How long the engine's threads have computed, or waited for a processor, in all was read."""
        if self._looked_at and busy_s - self._busy_s >= BUSY_SHARE * (now - self._looked_at):
            self._busy_at = now
        self._busy_s, self._looked_at = busy_s, now

    def silent_s(self, pending_since: float, now: float) -> float:
        """How long nothing has moved, for all that is known."""
        return now - max(self._moved_at, pending_since)

    def stalled(self, pending_since: float | None, now: float) -> bool:
        """Whether the engine has stalled, its oldest unanswered work being `pending_since` (None: there is none)."""
        if pending_since is None:
            return False
        since = max(self._moved_at, pending_since)
        busy = self._busy_at is not None and now - self._busy_at < self.stall_s
        limit = self.stall_s * BUSY_FACTOR if busy else self.stall_s
        if max(self._counter_read_at, self._looked_at) > since + limit:
            return True
        return now - since > 2 * limit
