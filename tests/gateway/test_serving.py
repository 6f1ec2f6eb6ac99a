"""`forebay serve` with several engines: one dies, callers do not notice, it comes back."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from forebay.config.sources import load_settings
from forebay.engines.spec import EngineSpec
from forebay.fleet import Slot
from forebay.listening import listen
from forebay.serving import serve_engines
from forebay.telemetry.logging import LogWriter
from tests.gateway.raw_client import fetch
from tests.gateway.test_supervisor import STUB
from tests.processes import descendants

BODY = {"model": "m", "prompt": "x"}


async def test_one_of_two_engines_may_die_under_load(tmp_path: Path) -> None:
    others = set(descendants(os.getpid()))
    settings, _ = load_settings({"port": 0, "engine_backoff_max_s": 0.1, "health_interval_s": 0.2}, env={})

    def spec(name: str, uds: str) -> EngineSpec:
        return EngineSpec(name, "m", uds, (sys.executable, str(STUB), "--uds", uds), {"PATH": os.environ["PATH"]})

    slots = [Slot(settings, spec)] * 2
    writer = LogWriter(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), text=False)
    sock = listen(settings.host, 0)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    joined: asyncio.Queue[None] = asyncio.Queue()
    serving = asyncio.create_task(
        serve_engines(settings, slots, lambda: slots, tmp_path, writer, sock, lambda: joined.put_nowait(None))
    )
    async with asyncio.timeout(60):
        await joined.get()
        await joined.get()
        stub = next(pid for pid in descendants(os.getpid()) if pid not in others and b"stub" in cmdline(pid)[1])
        statuses = []
        for number in range(100):
            if number == 30:
                os.kill(stub, signal.SIGKILL)
            statuses.append((await fetch(url, "POST", "/v1/completions", BODY)).status)
        assert statuses == [200] * 100
        await joined.get()  # the one that died is back
        engines = (await fetch(url, "GET", "/health")).json()["engines"]
        assert sorted(engine["restarts"] for engine in engines) == [0, 1]
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
    assert [pid for pid in descendants(os.getpid()) if pid not in others] == []


def cmdline(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
