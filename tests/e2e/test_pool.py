"""Two real engines under streams, one of which dies, then one that freezes: no caller notices."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import KEY, MODEL, Service, command_of, descendants, serve

STREAMS = 8
PROMPTS = [
    f"Tell me a story about {thing}."
    for thing in ("a fox", "rain", "a king", "bread", "Mars", "a sailor", "snow", "ink")
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log_file = tmp_path_factory.mktemp("pool") / "forebay.log"
    flags = ["--replicas", "2", "--dtype", "float32", "--engine-stall-s", "5", "--engine-backoff-max-s", "1"]
    with serve(log_file, *flags, "--max-model-len", "1024") as service:
        until = time.monotonic() + 240
        while len(ready_engines(service)) < 2:
            assert time.monotonic() < until, service.log_tail()
            time.sleep(0.5)
        yield service


def ready_engines(service: Service) -> list[dict[str, Any]]:
    status: dict[str, Any] = service.get("/healthz")[1]
    ready = {replica["name"] for replica in status["replicas"] if replica["ready"]}
    return [engine for engine in status["engines"] if engine["name"] in ready]


def core_of(engine: dict[str, Any]) -> int:
    """The process that computes: vLLM's EngineCore."""
    return next(pid for pid in descendants(engine["pid"]) if "EngineCore" in command_of(pid))


async def tell(client: openai.AsyncOpenAI, prompt: str, begun: asyncio.Event) -> tuple[str, int, int]:
    """One greedy stream: its text and its token counts. Any error is raised."""
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=64,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage, ids = "", None, set()
    async for chunk in stream:
        ids.add(chunk.id)
        if chunk.choices and chunk.choices[0].delta.content:
            text += chunk.choices[0].delta.content
            begun.set()
        usage = chunk.usage or usage
    assert len(ids) == 1
    assert usage is not None
    return text, usage.prompt_tokens, usage.completion_tokens


async def all_streams(service: Service, strike: Any = None) -> list[tuple[str, int, int]]:
    """All prompts at once; `strike` is called when some stream has begun at each of the engines that are ready."""
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=300) as client:
        begun = [asyncio.Event() for _ in PROMPTS]
        tasks = [asyncio.create_task(tell(client, prompt, event)) for prompt, event in zip(PROMPTS, begun, strict=True)]
        if strike is not None:
            await asyncio.gather(*(event.wait() for event in begun))
            strike()
        return await asyncio.gather(*tasks)


def takeovers(service: Service) -> float:
    return service.figure("forebay_takeovers_total")


async def test_no_stream_notices_an_engine_that_is_killed_or_frozen(pool: Service) -> None:
    undisturbed = await all_streams(pool)
    assert all(len(text) > 40 for text, *_ in undisturbed)

    victim = core_of(ready_engines(pool)[0])
    assert await all_streams(pool, lambda: os.kill(victim, signal.SIGKILL)) == undisturbed
    after_kill = takeovers(pool)
    assert after_kill >= 1

    frozen = core_of(ready_engines(pool)[-1])
    try:
        assert await all_streams(pool, lambda: os.kill(frozen, signal.SIGSTOP)) == undisturbed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)
    assert takeovers(pool) > after_kill
    assert pool.figure("forebay_replica_stalls_total") == 1
    assert "EngineCore" not in command_of(frozen), "it was ended, though it did not react to SIGTERM"
