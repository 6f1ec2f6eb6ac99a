"""How long one thing held the event loop up: a callback that is always due tells how late it came.

Counted is the processor's time that the loop's own thread took meanwhile, so that a busy machine is not taken for a
held-up loop.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import thread_time


class Lag:
    """`worst_s` is the longest that the loop did not come back."""

    def __init__(self) -> None:
        self.worst_s = 0.0


@asynccontextmanager
async def watched_loop() -> AsyncIterator[Lag]:
    """Measure while the block runs."""
    lag, loop = Lag(), asyncio.get_running_loop()
    last = thread_time()

    def tick() -> None:
        nonlocal last, handle
        now = thread_time()
        lag.worst_s = max(lag.worst_s, now - last)
        last = now
        handle = loop.call_later(0.001, tick)

    handle = loop.call_later(0.001, tick)
    try:
        yield lag
    finally:
        handle.cancel()
