"""Two real engines under streams, one of which dies, then one that freezes: no caller notices."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import KEY, MODEL, Service, command_of, descendants, serve

TOKENS = 96
PROMPTS = [
    f"Tell me a story about {thing}."
    for thing in ("a fox", "rain", "a king", "bread", "Mars", "a sailor", "snow", "ink")
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log_file = tmp_path_factory.mktemp("pool") / "forebay.log"
    flags = [
        "--replicas",
        "2",
        "--dtype",
        "float32",
        "--engine-stall-s",
        "5",
        "--engine-backoff-max-s",
        "1",
        "--show-replica",
        "always",
    ]
    with serve(log_file, *flags, "--max-model-len", "1024") as service:
        until = time.monotonic() + 240
        while len(ready_engines(service)) < 2:
            assert time.monotonic() < until, service.log_tail()
            time.sleep(0.5)
        yield service


def ready_engines(service: Service) -> dict[str, dict[str, Any]]:
    """The engines that are in rotation, by name."""
    status: dict[str, Any] = service.get("/healthz")[1]
    ready = {replica["name"] for replica in status["replicas"] if replica["ready"]}
    return {engine["name"]: engine for engine in status["engines"] if engine["name"] in ready}


def core_of(engine: dict[str, Any]) -> int:
    """The process that computes: vLLM's EngineCore."""
    return next(pid for pid in descendants(engine["pid"]) if "EngineCore" in command_of(pid))


class Stream:
    """One greedy stream: which engine began it, its text and token counts. Any error is raised."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read(self, client: openai.AsyncOpenAI) -> tuple[str, int, int]:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": self.prompt}],
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, usage, ids = "", None, set()
        async for chunk in stream:
            ids.add(chunk.id)
            if chunk.choices and chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
                if not self.begun.done():
                    self.begun.set_result(stream.response.headers["x-forebay-replica"])
            usage = chunk.usage or usage
        assert len(ids) == 1
        assert usage is not None
        return text, usage.prompt_tokens, usage.completion_tokens


async def all_streams(service: Service, strike: Callable[[str], None] | None = None) -> list[tuple[str, int, int]]:
    """All prompts at once; `strike` is given the first engine that has begun two of them."""
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=300) as client:
        streams = [Stream(prompt) for prompt in PROMPTS]
        reading = [asyncio.create_task(stream.read(client)) for stream in streams]
        if strike is not None:
            begun: Counter[str] = Counter()
            for one in asyncio.as_completed([stream.begun for stream in streams]):
                engine = await one
                begun[engine] += 1
                if begun[engine] == 2:
                    strike(engine)
                    break
        return await asyncio.gather(*reading)


@pytest.mark.timeout(480)
async def test_no_stream_notices_an_engine_that_is_killed_or_frozen(pool: Service) -> None:
    undisturbed = await all_streams(pool)
    assert all(len(text) > 40 for text, *_ in undisturbed)
    struck: list[int] = []

    def strike(name: str, how: signal.Signals) -> None:
        struck.append(core_of(ready_engines(pool)[name]))
        os.kill(struck[-1], how)

    assert await all_streams(pool, lambda name: strike(name, signal.SIGKILL)) == undisturbed
    after_kill = pool.figure("forebay_takeovers_total")
    assert after_kill >= 2

    try:
        assert await all_streams(pool, lambda name: strike(name, signal.SIGSTOP)) == undisturbed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(struck[-1], signal.SIGCONT)
    assert pool.figure("forebay_takeovers_total") >= after_kill + 2
    assert pool.figure("forebay_replica_stalls_total") == 1
    assert "EngineCore" not in command_of(struck[-1]), "it was ended, though it did not react to SIGTERM"
