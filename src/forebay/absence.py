"""Sleeping between two looks at what others do, for who judges them by their silence.

A process that was stopped, frozen with its container or starved wakes up late. What others sent meanwhile is not read
yet, and who was frozen with it could send nothing: of such a time it knows nothing, and blames nobody for it.
"""

import asyncio
from time import monotonic

ABSENT_S = 1.0  # an event loop that is only held up is late by less


async def absent_during(seconds: float) -> bool:
    """Sleep. Where this process was not there meanwhile, sleep again, so that what came for it is read; return
    whether it was so."""
    due = monotonic() + seconds
    await asyncio.sleep(seconds)
    if monotonic() - due < ABSENT_S:
        return False
    await asyncio.sleep(seconds)
    return True
