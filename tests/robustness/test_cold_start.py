"""B24: five hundred clients are there before the model is."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.config.sources import load_settings
from forebay.engines.spec import EngineSpec
from forebay.fleet import Slot
from forebay.listening import listen
from forebay.serving import serve_engines
from forebay.telemetry.logging import LogWriter
from tests.gateway.calls import error_of
from tests.gateway.raw_client import Response, fetch
from tests.gateway.test_supervisor import STUB

CLIENTS = 500
BODY = {"model": "m", "prompt": "x", "max_tokens": 1}


@asynccontextmanager
async def served(directory: Path, env: dict[str, str]) -> AsyncIterator[str]:
    """`forebay serve` over one engine, as soon as it listens."""
    settings, _ = load_settings({"port": 0, "health_interval_s": 0.2, "engine_stop_timeout_s": 1.0}, env={})

    def spec(name: str, uds: str) -> EngineSpec:
        command = (sys.executable, str(STUB), "--uds", uds)
        return EngineSpec(name, "m", uds, command, {"PATH": os.environ["PATH"], **env})

    slots = [Slot(settings, spec)]
    writer = LogWriter(os.open(directory / "log", os.O_WRONLY | os.O_CREAT), text=False)
    sock = listen(settings.host, 0)
    serving = asyncio.create_task(
        serve_engines(settings, slots, lambda: slots, directory, writer, sock, on_ready=lambda: None)
    )
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 60)


async def crowd(url: str) -> list[Response]:
    return await asyncio.gather(*(fetch(url, "POST", "/v1/completions", BODY) for _ in range(CLIENTS)))


def assert_told_to_wait(answers: list[Response]) -> None:
    assert {(answer.status, error_of(answer)["code"]) for answer in answers} == {(503, "engine_unavailable")}
    told = {int(answer.header("retry-after") or 0) for answer in answers}
    assert len(told) >= 4
    assert told <= set(range(1, 61))


@pytest.mark.robustness
async def test_five_hundred_clients_wait_for_the_model_and_the_first_token_is_the_engines_own(tmp_path: Path) -> None:
    loads, hangs, asked = (tmp_path / name for name in ("loads", "hangs", "asked"))
    loads.touch()
    hangs.touch()
    env = {"STUB_LOADS": str(loads), "STUB_HANG": str(hangs), "STUB_ASKED": str(asked)}
    async with served(tmp_path, env) as url:
        assert_told_to_wait(await crowd(url))
        assert (await fetch(url, "GET", "/readyz")).status == 503
        loads.unlink()
        async with asyncio.timeout(20):
            while not asked.exists():  # it is healthy, and was asked for its first token
                await asyncio.sleep(0.01)
        assert_told_to_wait(await crowd(url))
        assert (await fetch(url, "GET", "/readyz")).status == 503
        assert '["x", 1]' not in asked.read_text(), "a caller's request has reached it"
        hangs.unlink()
        async with asyncio.timeout(20):
            while (await fetch(url, "GET", "/readyz")).status != 200:
                await asyncio.sleep(0.01)
        assert {answer.status for answer in await crowd(url)} == {200}
