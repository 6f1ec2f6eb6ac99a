"""Two real engines: conversations find their cache, and no caller notices that one dies, then one freezes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import KEY, MODEL, Service, serve
from tests.gateway.raw_client import fetch
from tests.processes import command_of, descendants

TOKENS = 96
PROMPTS = [
    f"Tell me a story about {thing}."
    for thing in ("a fox", "rain", "a king", "bread", "Mars", "a sailor", "snow", "ink")
]


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets")


@pytest.fixture(scope="module")
def pool(sockets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log_file = tmp_path_factory.mktemp("pool") / "forebay.log"
    flags = ["--replicas", "2", "--dtype", "float32", "--engine-stall-s", "10", "--engine-backoff-max-s", "1"]
    flags += ["--show-replica", "always", "--runtime-dir", str(sockets), "--max-model-len", "1024"]
    with serve(log_file, *flags) as service:
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


@contextlib.contextmanager
def gateway_over(engines: list[Path], routing: str) -> Iterator[str]:
    """`forebay gateway` over engines' sockets; its URL."""
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("forebay")),
            *("gateway", "--port", "0", "--routing", routing),
            *(part for engine in engines for part in ("--upstream", f"unix://{engine}")),
        ],
        env={**os.environ, "API_KEYS": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


async def cache_figures(engines: list[Path]) -> tuple[float, float]:
    """Prompt tokens found in the prefix cache, and looked up there, by the engines' own count."""
    hits = queries = 0.0
    for engine in engines:
        for line in (await fetch(f"unix://{engine}", "GET", "/metrics")).body.decode().splitlines():
            if line.startswith("vllm:prefix_cache_hits_total"):
                hits += float(line.split()[-1])
            elif line.startswith("vllm:prefix_cache_queries_total"):
                queries += float(line.split()[-1])
    return hits, queries


async def hold_conversations(url: str, about: str) -> None:
    """Seven conversations of three turns each, a turn of all of them after the other."""
    conversations = [
        [{"role": "user", "content": f"In {about} year {1900 + number}: " + f"note {about}{number}, then. " * 40}]
        for number in range(7)
    ]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=2, timeout=120) as client:
        for _ in range(3):
            for messages in conversations:
                asked: Any = messages
                answer = await client.chat.completions.create(model=MODEL, messages=asked, max_tokens=8, temperature=0)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
                messages.append({"role": "user", "content": "And then what happened? Go on, please."})


@pytest.mark.timeout(300)
async def test_a_conversation_finds_its_cache(pool: Service, sockets: Path) -> None:
    engines = [sockets / f"engine-{number}.sock" for number in range(2)]
    rates = {}
    for routing in ("round_robin", "prefix"):
        hits, queries = await cache_figures(engines)
        with gateway_over(engines, routing) as url:
            await until_ready(url)
            await hold_conversations(url, about=routing)
        hits_after, queries_after = await cache_figures(engines)
        rates[routing] = (hits_after - hits) / (queries_after - queries)
    assert rates["prefix"] >= 1.5 * rates["round_robin"], rates


async def until_ready(url: str) -> None:
    async with asyncio.timeout(60):
        while len(
            (await fetch(url, "GET", "/healthz", authorization=f"Bearer {KEY}")).json()["replicas"]
        ) < 2 or not all(
            replica["ready"]
            for replica in (await fetch(url, "GET", "/healthz", authorization=f"Bearer {KEY}")).json()["replicas"]
        ):
            await asyncio.sleep(0.05)


@pytest.mark.timeout(480)
async def test_no_stream_notices_an_engine_that_is_killed_or_frozen(pool: Service) -> None:
    undisturbed = await all_streams(pool)
    assert all(len(text) > 40 for text, *_ in undisturbed)
    struck: list[tuple[str, int]] = []

    def strike(name: str, how: signal.Signals) -> None:
        struck.append((name, core_of(ready_engines(pool)[name])))
        os.kill(struck[-1][1], how)

    assert await all_streams(pool, lambda name: strike(name, signal.SIGKILL)) == undisturbed
    after_kill = pool.figure("forebay_takeovers_total")
    assert after_kill >= 2

    try:
        assert await all_streams(pool, lambda name: strike(name, signal.SIGSTOP)) == undisturbed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(struck[-1][1], signal.SIGCONT)
    assert pool.figure("forebay_takeovers_total") >= after_kill + 2
    frozen, core = struck[-1]
    assert pool.figure("forebay_replica_stalls_total", replica=frozen) >= 1
    assert "EngineCore" not in command_of(core), "it was ended, though it did not react to SIGTERM"
