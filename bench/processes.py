"""A fake engine and `forebay gateway` as processes of their own, so that what is measured here is not this loop."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from bench.in_process import ask

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Running:
    """One process and its address."""

    url: str
    process: asyncio.subprocess.Process

    async def starts(self) -> int:
        """How many generations a fake engine was asked to start."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return int(await self.process.stdout.readline())

    def resident_bytes(self) -> int:
        return 4096 * int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])


@asynccontextmanager
async def fake_engine(**options: Any) -> AsyncIterator[Running]:
    """A `FakeEngine` with these options; see `fake.py`."""
    async with _process(sys.executable, "-m", "bench.fake", json.dumps(options)) as running:
        yield running


@asynccontextmanager
async def forebay_gateway(upstream: str, keys: tuple[str, ...], **flags: Any) -> AsyncIterator[Running]:
    """A gateway over an engine, once it is ready."""
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = (str(Path(sys.executable).with_name("forebay")), "gateway", "--upstream", upstream, "--port", "0")
    async with _process(*command, *words, API_KEYS=",".join(keys)) as running:
        while (
            await ask(running.url, "", b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        ).status != 200:
            await asyncio.sleep(0.02)
        yield running


@asynccontextmanager
async def _process(*command: str, **env: str) -> AsyncIterator[Running]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "PYTHONPATH": path, **env}, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    try:
        assert process.stdout is not None
        yield Running((await process.stdout.readline()).decode().split()[-1], process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
