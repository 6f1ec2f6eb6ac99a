"""The supervisor over real processes: up only after a generation, back after a crash, gone when it should be."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forebay.config.sources import load_settings
from forebay.engines.lifecycle import Announce, State
from forebay.engines.spec import EngineSpec
from forebay.engines.supervisor import Supervisor
from forebay.upstream.pool import Address, UpstreamPool
from tests.processes import alive, descendants

STUB = Path(__file__).with_name("stub_vllm.py")
StartSupervisor = Callable[..., AbstractAsyncContextManager["Watched"]]


class Watched:
    """A supervisor and the states it goes through."""

    def __init__(self, spec: EngineSpec, **flags: Any) -> None:
        quick = {"health_interval_s": 0.1, "engine_stop_timeout_s": 0.5, "engine_backoff_max_s": 0.1, **flags}
        settings, _ = load_settings(quick, env={})
        self.changes: asyncio.Queue[Announce] = asyncio.Queue()
        self.upstream = UpstreamPool(
            Address("localhost", uds=spec.uds), connect_timeout_s=1, idle_s=4, max_connections=9
        )
        self._others = set(descendants(os.getpid()))
        self.supervisor = Supervisor(spec, settings, self.upstream, self.changes.put_nowait)

    def family(self) -> list[int]:
        """The leash, the stub, and whatever that started."""
        return [pid for pid in descendants(os.getpid()) if pid not in self._others]

    async def until(self, state: State) -> Announce:
        async with asyncio.timeout(30):
            while (change := await self.changes.get()).new is not state:
                pass
            return change


@pytest.fixture
def supervise(tmp_path: Path) -> StartSupervisor:
    """`async with supervise("exit-0", engine_crash_limit=2) as watched:` — over the stub in that mode."""

    @asynccontextmanager
    async def start(mode: str = "", env: dict[str, str] | None = None, **flags: Any) -> AsyncIterator[Watched]:
        watched = Watched(a_spec(tmp_path, mode, env), **flags)
        running = asyncio.create_task(watched.supervisor.run())
        try:
            yield watched
        finally:
            watched.supervisor.stop()
            async with asyncio.timeout(30):
                await running
            watched.upstream.close()
            assert watched.family() == []

    return start


def a_spec(directory: Path, mode: str, env: dict[str, str] | None = None) -> EngineSpec:
    uds = str(directory / "e.sock")
    argv = (sys.executable, str(STUB), "--uds", uds)
    return EngineSpec("engine-0", "m", uds, argv, {"PATH": os.environ["PATH"], "STUB": mode, **(env or {})})


async def test_it_is_ready_only_after_a_real_generation(supervise: StartSupervisor) -> None:
    async with supervise() as watched:
        seen = []
        while (change := await watched.changes.get()).new is not State.READY:
            seen.append(change.new)
        assert seen == [State.BACKOFF, State.STARTING, State.WARMING]
        assert (watched.supervisor.restarts, watched.supervisor.states()["ready"]) == (0, True)


async def test_health_without_a_generation_is_not_ready(supervise: StartSupervisor) -> None:
    async with supervise("no-generation", engine_warm_timeout_s=0.6) as watched:
        await watched.until(State.WARMING)
        assert (await watched.until(State.STOPPING)).why == "no generation within 0.6 s"


async def test_an_engine_that_never_gets_healthy_is_given_up(supervise: StartSupervisor) -> None:
    async with supervise("unhealthy", engine_start_timeout_s=0.6) as watched:
        assert (await watched.until(State.STOPPING)).why == "not healthy within 0.6 s"


async def test_a_killed_engine_comes_back(supervise: StartSupervisor) -> None:
    async with supervise() as watched:
        await watched.until(State.READY)
        stub = watched.family()[-1]
        os.kill(stub, signal.SIGKILL)
        assert "status 137" in (await watched.until(State.STOPPED)).why
        await watched.until(State.READY)
        assert (watched.supervisor.restarts, watched.supervisor.oom_events) == (1, 1)


async def test_an_exit_with_status_0_is_a_crash_and_too_many_are_the_end(
    supervise: StartSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "forebay.engine")
    async with supervise("exit-0", engine_crash_limit=2) as watched:
        change = await watched.until(State.FAILED)
        assert "crashed 2 times" in change.why
        assert watched.supervisor.oom_events == 2
    line = next(record for record in caplog.records if "OutOfMemory" in record.getMessage())
    assert (line.levelname, line.getMessage()) == ("ERROR", "[core.py:1] torch.OutOfMemoryError: CUDA out of memory")


async def test_an_engine_that_was_given_up_is_started_again_after_a_while(supervise: StartSupervisor) -> None:
    async with supervise("exit-0", engine_crash_limit=1, engine_crash_window_s=0.3) as watched:
        await watched.until(State.FAILED)
        assert watched.supervisor.restarts == 0
        await watched.until(State.STARTING)
        assert watched.supervisor.restarts == 1


async def test_health_that_fails_again_and_again_is_a_stall(supervise: StartSupervisor, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    async with supervise(env={"STUB_SICK": str(sick)}) as watched:
        await watched.until(State.READY)
        sick.touch()
        assert "health failed" in (await watched.until(State.STOPPING)).why
        sick.unlink()
        await watched.until(State.READY)


async def test_an_engine_too_busy_to_answer_health_is_left_alone(supervise: StartSupervisor) -> None:
    async with supervise(health_timeout_s=0.1) as watched:
        await watched.until(State.READY)
        stub = watched.family()[-1]
        os.kill(stub, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await watched.changes.get()
        os.kill(stub, signal.SIGCONT)


async def test_stopping_ends_what_ignores_sigterm_and_what_left_the_group(supervise: StartSupervisor) -> None:
    async with supervise("stubborn") as watched:
        await watched.until(State.READY)
        assert len(watched.family()) == 3  # leash, stub, grandchild


async def test_an_engine_that_still_loads_is_stopped_at_once(
    supervise: StartSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "forebay.engine")
    async with supervise("loading", engine_stop_timeout_s=60) as watched:
        async with asyncio.timeout(30):
            while "[weights.py:1] loading" not in caplog.messages:
                await asyncio.sleep(0.01)
        watched.supervisor.stop()
        assert (await watched.until(State.STOPPED)).why == "exited with status 137"
    assert watched.supervisor.oom_events == 0


def test_nothing_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.gateway.test_supervisor import State, Watched, a_spec
async def main():
    watched = Watched(a_spec(Path({str(tmp_path)!r}), "stubborn"))
    running = asyncio.create_task(watched.supervisor.run())
    await watched.until(State.READY)
    print("up", flush=True)
    await running
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        family = descendants(parent.pid)
        assert len(family) == 3
        parent.kill()
        parent.wait()
        until = time.monotonic() + 30
        while any(alive(pid) for pid in family) and time.monotonic() < until:
            time.sleep(0.02)
        assert [pid for pid in family if alive(pid)] == []
