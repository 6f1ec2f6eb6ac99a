"""Waiting for what can only be asked for: how things stand at a gateway, in a database, in a file."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.gateway.conftest import Running


async def until(holds: Callable[[], Any]) -> None:
    """Return once it holds."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.002)


async def all_ready(running: "Running") -> None:
    """Return once every engine that a gateway knows is in rotation."""
    await until(lambda: all(replica.ready for replica in running.gateway.replicas))
