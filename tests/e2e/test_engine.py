"""What the real engine does while clients come, leave and crowd; and, last, when it is killed."""

import asyncio
import os
import signal
import socket
import time
from typing import Any

import openai
import pytest

from forebay.monitoring.elsewhere import ELSEWHERE
from tests.e2e.conftest import KEY, MODEL, Service
from tests.processes import command_of, descendants

pytestmark = pytest.mark.engine

CANARY = "canary-prompt-4711"


def client_of(service: Service) -> openai.AsyncOpenAI:
    # As long as a stream may wait for a new engine, whose start takes half a minute on a CPU that does nothing else.
    return openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=120)


def engine_figures(service: Service) -> str:
    """vLLM's own figures, from its Unix socket."""
    commands = [command_of(pid) for pid in descendants(service.process.pid)]
    path = next(command.split("--uds ", 1)[1].split()[0] for command in commands if "--uds " in command)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(path)
        sock.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def engine_metric(service: Service, name: str) -> float:
    """One of them."""
    told = engine_figures(service)
    return sum(float(line.rsplit(" ", 1)[1]) for line in told.splitlines() if line.startswith(name + "{"))


def test_the_engine_tells_every_figure_that_panels_show(service: Service) -> None:
    vllms = [metric for metric in ELSEWHERE if metric.name.startswith("vllm:")]
    told = engine_figures(service)
    for metric in vllms:
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        assert f"\n{name}{{" in told, f"this vLLM has no {name}: renamed?"


async def long_stream(client: openai.AsyncOpenAI, tokens: int = 900) -> Any:
    return await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Count. {CANARY}"}],
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    )


async def test_a_client_that_leaves_frees_the_engine_at_once(service: Service) -> None:
    async with client_of(service) as client:
        stream = await long_stream(client)
        await anext(aiter(stream))
        async with asyncio.timeout(20):
            while engine_metric(service, "vllm:num_requests_running") != 1:  # it is told behind the token
                await asyncio.sleep(0.01)
        await stream.close()
        until = time.monotonic() + 3
        while engine_metric(service, "vllm:num_requests_running") and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert engine_metric(service, "vllm:num_requests_running") == 0


async def test_eight_streams_at_once_are_all_whole_and_counted(service: Service) -> None:
    before = service.figure("forebay_completion_tokens_total")

    async def one(client: openai.AsyncOpenAI) -> int:
        chunks = [chunk async for chunk in await long_stream(client, tokens=40)]
        assert chunks[-1].choices[0].finish_reason == "length"
        return 40

    async with client_of(service) as client:
        total = sum(await asyncio.gather(*[one(client) for _ in range(8)]))
    assert service.figure("forebay_completion_tokens_total") - before == total


async def test_a_killed_engine_comes_back_and_goes_on_with_its_stream(service: Service) -> None:
    async with client_of(service) as client:
        stream = await long_stream(client, tokens=120)
        await anext(aiter(stream))
        core = next(pid for pid in descendants(service.process.pid) if "EngineCore" in command_of(pid))
        os.kill(core, signal.SIGKILL)
        rest = asyncio.create_task(all_of(stream))
        until = time.monotonic() + 30
        while service.get("/health/ready")[0] == 200 and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert service.get("/health/ready")[0] == 503
        assert service.get("/health", key=False)[0] == 200
        with pytest.raises(openai.InternalServerError) as refused:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
        assert refused.value.code == "engine_unavailable"
        assert refused.value.response.headers["retry-after"]
        await asyncio.to_thread(service.wait_until_ready)
        chunks = await rest
        assert chunks[-1].choices[0].finish_reason == "length"
        assert len({chunk.id for chunk in chunks}) == 1
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
        )
        assert "Paris" in (answer.choices[0].message.content or "")
    assert service.figure("forebay_engine_restarts_total") == 1
    assert service.figure("forebay_takeovers_total") >= 1  # the dying engine's front may refuse one first


async def all_of(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def test_the_log_holds_neither_key_nor_prompt(service: Service) -> None:
    log = service.log_file.read_text()
    assert '"message":"request"' in log
    assert KEY not in log
    assert CANARY not in log
