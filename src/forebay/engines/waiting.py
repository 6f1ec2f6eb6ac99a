"""How long an engine's threads have waited for a processor that others were using.

The kernel tells it (`/proc/PID/task/TID/schedstat`: time run, time waited, turns), but counts a wait only once it is
over: a thread that gets no turn at all seems not to want one. So one that was runnable at the look before, and is now,
and has had no turn in between, is counted as waiting since then.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from time import monotonic


class Waiting:
    """Of one engine's threads. Ask it from time to time."""

    def __init__(self) -> None:
        self._runnable: dict[str, tuple[int, float]] = {}  # thread to its turns, and when it was first seen so

    def __repr__(self) -> str:
        return f"<Waiting: {len(self._runnable)} threads are runnable>"

    def seconds(self, processes: Iterable[Path]) -> float:
        """The threads' waits in all, of processes given as /proc/PID; 0 where the kernel does not tell."""
        now = monotonic()
        total, runnable = 0.0, {}
        for thread in (one for process in processes for one in process.glob("task/[0-9]*")):
            with contextlib.suppress(OSError):  # it has just ended
                _, waited_ns, turns = map(int, (thread / "schedstat").read_bytes().split())
                total += waited_ns / 1e9
                if (thread / "stat").read_bytes().rpartition(b") ")[2][:1] == b"R":
                    before = self._runnable.get(thread.name)
                    since = before[1] if before is not None and before[0] == turns else now
                    runnable[thread.name] = turns, since
                    total += now - since
        self._runnable = runnable
        return total
