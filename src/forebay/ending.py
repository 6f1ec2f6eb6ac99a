"""How a role is ended: the first signal begins the end, the second skips the waiting."""

import asyncio
from collections.abc import Awaitable
from types import FrameType
from typing import Any


class Ending:
    """One process's end. `enter` its event loop before signals come; `on_signal` may be called from their handler."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._hurried = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self) -> None:
        self._loop = asyncio.get_running_loop()

    def on_signal(self, sig: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        event = self._hurried if self.begun.is_set() else self.begun
        self._loop.call_soon_threadsafe(event.set)

    async def unless_hurried(self, waiting: Awaitable[Any]) -> None:
        """Wait, but no longer than until a second signal; a time-out is no error here."""
        task, hurried = asyncio.ensure_future(waiting), asyncio.ensure_future(self._hurried.wait())
        await asyncio.wait((task, hurried), return_when=asyncio.FIRST_COMPLETED)
        for one in (task, hurried):
            one.cancel()
        await asyncio.gather(task, hurried, return_exceptions=True)
