"""A gateway's process, and another that takes its place at the same socket, as systemd would have it.

The socket is ours: it is passed to each process as descriptor 3 (`sd_listen_fds`), and each says by `sd_notify` when it
is ready.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from tests.gateway.command import FOREBAY

# Its own pid is known to the process that is started alone, so it says it.
_PASS = 'exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'


class Place:
    """A listening socket, and which gateway is at it."""

    def __init__(self, directory: Path, *words: str, **env: str) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        self.ends: list[tuple[int, float]] = []  # exit status and seconds that it took, of each that has ended
        self.process: asyncio.subprocess.Process | None = None
        self._directory = directory
        self._words = words
        self._env = env
        self._started = 0

    async def start(self) -> asyncio.subprocess.Process:
        """Another gateway at the socket, once it says that it is ready."""
        self._started += 1
        path = str(self._directory / f"notices-{self._started}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(path)
            notices.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", _PASS, "sh", FOREBAY, *self._words),
                env={**os.environ, "API_KEYS": "sk-test", "NOTIFY_SOCKET": path, **self._env},
                stdin=self.sock,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            async with asyncio.timeout(30):
                while await asyncio.get_running_loop().sock_recv(notices, 100) != b"READY=1":
                    pass
        return process

    async def replace(self) -> None:
        """A new one is ready before the old one is told to end; then that is waited for."""
        former, self.process = self.process, await self.start()
        if former is not None:
            await self.end(former)

    async def end(self, process: asyncio.subprocess.Process) -> None:
        began = monotonic()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            self.ends.append((await process.wait(), monotonic() - began))


@asynccontextmanager
async def place(*words: str, **env: str) -> AsyncIterator[Place]:
    """A gateway of these words, which may be replaced."""
    with TemporaryDirectory(prefix="forebay-place-") as directory:
        one = Place(Path(directory), *words, **env)
        try:
            await one.replace()
            yield one
        finally:
            if one.process is not None and one.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    one.process.kill()
                await one.process.wait()
            one.sock.close()
