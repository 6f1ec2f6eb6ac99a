"""One request and its whole answer, over the connections that the gateway itself uses towards engines.

Nothing is sent twice here but what a kept-alive connection lost before anything came back: the other end had closed it.
"""

import asyncio

from forebay.client.completions import Answer
from forebay.client.result import GenerationError
from forebay.failures import Failure, FailureKind
from forebay.upstream.connection import Connection
from forebay.upstream.pool import UpstreamPool

MAX_ANSWER_BYTES = 256 * 1024 * 1024
_SAID: dict[FailureKind, tuple[str, str, bool]] = {  # message, code, and whether to try again
    "connect": ("{failure}", "no_connection", True),
    "closed": ("The connection ended before the answer did: {failure}", "connection_lost", True),
    "invalid": ("What came is no answer: {failure}", "invalid_answer", False),
}


class _Collector:
    """Reads one answer into a future."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.connection: Connection | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        self._status, self._headers = status, headers

    def block(self, data: bytes, now: float) -> None:
        self._body += data
        if len(self._body) > MAX_ANSWER_BYTES and self.connection is not None:
            self.connection.fail("invalid", f"it is longer than {MAX_ANSWER_BYTES} bytes")

    def end(self, now: float) -> None:
        if not self.done.done():
            self.done.set_result(Answer(self._status, self._headers, bytes(self._body)))

    def failed(self, failure: Failure) -> None:
        if not self.done.done():
            self.done.set_exception(failure)


async def ask(pool: UpstreamPool, request: bytes, timeout_s: float) -> Answer:
    """Send a request and return its answer, whatever its status. Raises `GenerationError` where none came."""
    try:
        async with asyncio.timeout(timeout_s):
            try:
                return await _ask_once(pool, request, fresh=False)
            except Failure as failure:
                if not failure.stale:
                    raise
                return await _ask_once(pool, request, fresh=True)
    except TimeoutError:
        told = f"No answer within {timeout_s:g} s."
        raise GenerationError(told, code="timeout", should_retry=False) from None
    except Failure as failure:
        said, code, again = _SAID.get(failure.kind, _SAID["closed"])
        raise GenerationError(said.format(failure=failure), code=code, should_retry=again) from None


async def _ask_once(pool: UpstreamPool, request: bytes, *, fresh: bool) -> Answer:
    collector = _Collector()
    connection = collector.connection = pool.send(request, collector, fresh=fresh)
    try:
        return await collector.done
    finally:
        if collector.done.cancelled():
            connection.cancel()
