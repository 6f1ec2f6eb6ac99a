"""A small whole answer from an engine, for the gateway's own questions (health, models)."""

import asyncio

from forebay.failures import Failure
from forebay.upstream.connection import Connection
from forebay.upstream.pool import UpstreamPool

MAX_BYTES = 4 * 1024 * 1024


class _Collector:
    """Reads one answer into a future."""

    def __init__(self) -> None:
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.connection: Connection | None = None
        self._status = 0
        self._body = bytearray()

    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        self._status = status

    def block(self, data: bytes, now: float) -> None:
        self._body += data
        if len(self._body) > MAX_BYTES and self.connection is not None:
            self.connection.fail("invalid", "the answer is too large")

    def end(self, now: float) -> None:
        if not self.done.done():
            self.done.set_result((self._status, bytes(self._body)))

    def failed(self, failure: Failure) -> None:
        if not self.done.done():
            self.done.set_exception(failure)


async def fetch(pool: UpstreamPool, request: bytes, timeout_s: float) -> tuple[int, bytes]:
    """Send one request over a connection of its own; return status and body. Raises `Failure`."""
    collector = _Collector()
    connection = collector.connection = pool.send(request, collector, fresh=True)
    try:
        async with asyncio.timeout(timeout_s):
            return await collector.done
    except TimeoutError:
        raise Failure("timeout", f"no answer within {timeout_s:g} s") from None
    finally:
        if not collector.done.done() or collector.done.cancelled():
            connection.cancel()
