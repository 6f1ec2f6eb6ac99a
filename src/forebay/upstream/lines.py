"""A long answer, line by line as it comes, for a question that stays open (`fetch.py` is for small whole answers)."""

import asyncio
from collections.abc import AsyncGenerator

from forebay.failures import Failure
from forebay.upstream.connection import Connection
from forebay.upstream.pool import UpstreamPool

MAX_LINE_BYTES = 4 * 1024 * 1024


class StatusFailure(Failure):
    """An answer came, but not with status 200."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__("invalid", detail)
        self.status = status


class _Splitter:
    """Reads one answer into a queue of lines; at its end comes None or what went wrong."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | Failure | None] = asyncio.Queue()
        self.connection: Connection | None = None
        self._rest = b""

    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        self.lines.put_nowait(b"" if status == 200 else StatusFailure(status, f"answered {status}"))

    def block(self, data: bytes, now: float) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in filter(None, lines):
            self.lines.put_nowait(line)
        if len(self._rest) > MAX_LINE_BYTES and self.connection is not None:
            self.connection.fail("invalid", "a line of the answer is too large")

    def end(self, now: float) -> None:
        self.lines.put_nowait(None)

    def failed(self, failure: Failure) -> None:
        self.lines.put_nowait(failure)


async def follow(pool: UpstreamPool, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
    """Send one request over a connection of its own and yield the lines of its answer, for at most `timeout_s`.

    The first is empty: it says that the answer has begun. Raises `Failure`.
    """
    splitter = _Splitter()
    deadline = asyncio.get_running_loop().time() + timeout_s
    connection = splitter.connection = pool.send(request, splitter, fresh=True)
    try:
        while True:
            async with asyncio.timeout_at(deadline):
                line = await splitter.lines.get()
            if line is None:
                return
            if isinstance(line, Failure):
                raise line
            yield line
    except TimeoutError:
        raise Failure("timeout", f"the answer did not end within {timeout_s:g} s") from None
    finally:
        connection.cancel()
