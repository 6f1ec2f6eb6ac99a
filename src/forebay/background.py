"""Tasks that run for as long as the gateway does. One that fails is started again, however often; that is counted.

A task that stays dead is not seen from outside: no deadline would be kept any more, no file followed, no engine looked
at, and every probe would say 200.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

log = logging.getLogger("forebay.gateway")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STOP_AGAIN_S = 0.5

Make = Callable[[], Coroutine[Any, Any, None]]


class Background:
    """`start` and forget. `failures` counts, by a task's name, how often it was started again; 0 is told too, so that
    the first failure is seen to be one more."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Background {len(self._tasks)} tasks, failures {self.failures}>"

    def start(self, name: str, make: Make) -> "asyncio.Task[None]":
        """Run what `make` makes, again and again until it returns or is cancelled."""
        self.failures.setdefault(name, 0)
        task = asyncio.get_running_loop().create_task(self._keep(name, make), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel them all and return when they have ended. A task may lose a cancellation (see `Pipeline._wait`)."""
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_AGAIN_S)

    async def _keep(self, name: str, make: Make) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = monotonic()
            try:
                await make()
            except Exception:
                self.failures[name] += 1
                log.exception("a background task failed; it is started again", extra={"task": name})
            else:
                return
            ran_well = monotonic() - began > LONGEST_PAUSE_S
            pause_s = FIRST_PAUSE_S if ran_well else min(pause_s * 2, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
