"""Is it stalled? Work is pending and nothing moves. Pure: the clock is an argument.

`/health` cannot tell: vLLM answers it with 200 while its engine core hangs, and late while it is merely busy. What can
is progress, from two sources: bytes that we relay, and the engine's own step counter
(`vllm:iteration_tokens_total_count`), which moves at every step, those of a long prefill included.

    nothing pending                        not stalled, however long nothing moved
    something moved within `stall_s`       not stalled
    the counter was read since, unmoved    stalled
    nothing could be read                  stalled only after twice the time: silence is weaker evidence

An engine whose processes are seen computing is given `BUSY_FACTOR` times as long: a long step looks like that (a CPU's
prefill can take ten seconds), and so does a deadlock that spins, but a stopped process does not.
"""

BUSY_FACTOR = 6
BUSY_SHARE = 0.2  # of one processor, from which on an engine counts as computing


class Progress:
    """One engine's. Tell it what moves; ask `stalled`. Times are monotonic seconds."""

    __slots__ = ("_busy_at", "_counter", "_counter_read_at", "_cpu_read_at", "_cpu_s", "_moved_at", "stall_s")

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self._moved_at = 0.0
        self._counter = -1.0
        self._counter_read_at = 0.0
        self._cpu_s = 0.0
        self._cpu_read_at = 0.0
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

    def computed(self, cpu_s: float, now: float) -> None:
        """The processor time that the engine's processes have used in all was read."""
        if self._cpu_read_at and cpu_s - self._cpu_s >= BUSY_SHARE * (now - self._cpu_read_at):
            self._busy_at = now
        self._cpu_s, self._cpu_read_at = cpu_s, now

    def stalled(self, pending_since: float | None, now: float) -> bool:
        """Whether the engine has stalled, its oldest unanswered work being `pending_since` (None: there is none)."""
        if pending_since is None:
            return False
        since = max(self._moved_at, pending_since)
        busy = self._busy_at is not None and now - self._busy_at < self.stall_s
        limit = self.stall_s * BUSY_FACTOR if busy else self.stall_s
        if max(self._counter_read_at, self._cpu_read_at) > since + limit:
            return True
        return now - since > 2 * limit
