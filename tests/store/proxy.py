"""A TCP proxy before a server, which is slow or cuts connections when a test says so."""

import asyncio
from contextlib import suppress
from typing import Self


class Proxy:
    """`delay_s` holds back what the server answers; `drop` resets all and accepts nobody until `accept`; `halves`
    closes each connection after half of an answer; `instead` is said in the place of whatever the server answers."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.halves = False
        self.instead = b""
        self.url = ""
        self._port = port
        self._dropping = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await asyncio.sleep(0.05)

    def drop(self) -> None:
        self._dropping = True
        for writer in self._writers:
            writer.transport.abort()

    def accept(self) -> None:
        self._dropping = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._dropping:
            writer.transport.abort()
            return
        theirs, out = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, out}
        await asyncio.gather(self._pump(reader, out, slow=False), self._pump(theirs, writer, slow=True))
        self._writers -= {writer, out}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        with suppress(OSError, RuntimeError):  # cut meanwhile
            while data := await reader.read(65536):
                if slow and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if slow and self.halves:
                    writer.write(data[: len(data) // 2])
                    writer.close()
                    return
                writer.write(self.instead if slow and self.instead else data)
        writer.transport.abort()
