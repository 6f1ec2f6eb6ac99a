"""`forebay serve` as a process over stand-ins for vLLM: several models, and replacing engines while requests go on."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forebay.rollout import available_bytes, plan
from tests.gateway.command import FOREBAY, serving
from tests.gateway.raw_client import Response, connect, fetch
from tests.gateway.test_agent import an_environment, outlived

ADMIN = {"authorization": "Bearer sk-admin"}
QUICK = ("--health-interval-s", "0.2", "--engine-backoff-max-s", "0.1", "--engine-stop-timeout-s", "0.5")


@dataclass
class Serve:
    """A running `forebay serve` and its file of settings."""

    process: asyncio.subprocess.Process
    url: str
    file: Path
    env: dict[str, str]

    async def status(self) -> dict[str, Any]:
        answer = await fetch(self.url, "GET", "/healthz", authorization="Bearer sk-admin")
        status: dict[str, Any] = answer.json()
        return status

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while not condition(status := await self.status()):
                await asyncio.sleep(0.02)
            return status

    async def until_ready(self, engines: int) -> None:
        await self.until(lambda status: sum(replica["ready"] for replica in status["replicas"]) == engines)

    async def ask(self, model: str = "m", **fields: Any) -> Response:
        return await fetch(self.url, "POST", "/v1/completions", {"model": model, "prompt": "x", **fields})

    async def rollout(self, *flags: str) -> tuple[int, str]:
        """`forebay rollout`: its status, and what it said."""
        process = await asyncio.create_subprocess_exec(
            *(FOREBAY, "rollout", "--url", self.url, *flags),
            env={**self.env, "FOREBAY_ADMIN_KEYS": "sk-admin"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, said.decode()


StartServe = Callable[..., AbstractAsyncContextManager[Serve]]


@pytest.fixture
def start_serve(tmp_path: Path) -> StartServe:
    """`async with start_serve("model = 'm'", "--replicas", "2") as serve:` with the text of its file of settings."""

    @asynccontextmanager
    async def start(settings: str, *flags: str, **env: str) -> AsyncIterator[Serve]:
        file = tmp_path / "forebay.toml"
        file.write_text(settings)
        environment = an_environment(tmp_path) | {"FOREBAY_ADMIN_KEYS": "sk-admin"} | env
        words = ("serve", "--config", str(file), "--port", "0", "--log-file", str(tmp_path / "log"), *QUICK, *flags)
        async with serving(FOREBAY, *words, env=environment) as (process, url), outlived(process):
            yield Serve(process, url, file, environment)

    return start


@asynccontextmanager
async def steady_load(serve: Serve) -> AsyncIterator[Counter[tuple[int, int]]]:
    """Requests one after the other on four connections; counted by status and by who answered."""
    answers: Counter[tuple[int, int]] = Counter()
    over = False

    async def ask() -> None:
        while not over:
            answer = await serve.ask()
            answers[answer.status, answer.json().get("created", -1)] += 1

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    try:
        yield answers
    finally:
        over = True
        await asyncio.gather(*asking)


@pytest.mark.parametrize("how", ["signal", "command"])
async def test_changed_options_come_into_force_without_a_failed_request(how: str, start_serve: StartServe) -> None:
    async with start_serve("model = 'm'\nmax_model_len = 100", "--replicas", "2", "--rollout", "surge") as serve:
        await serve.until_ready(2)
        async with steady_load(serve) as answers:
            async with asyncio.timeout(30):
                while answers[200, 100] < 50:
                    await asyncio.sleep(0.01)
            serve.file.write_text("model = 'm'\nmax_model_len = 200")
            if how == "signal":
                serve.process.send_signal(signal.SIGHUP)
                await serve.until(lambda status: status["rollout"]["state"] == "done")
            else:
                status, said = await serve.rollout()
                assert (status, said.splitlines()[-1]) == (0, "forebay: 2 engines replaced")
            seen = answers[200, 200]
            async with asyncio.timeout(30):
                while answers[200, 200] < seen + 50:
                    await asyncio.sleep(0.01)
        assert {status for status, _ in answers} == {200}
        assert (await serve.ask()).json()["created"] == 200
        status = await serve.status()
        assert [engine["name"] for engine in status["engines"]] == ["engine-2", "engine-3"]
        assert len(status["replicas"]) == 2
        noted = [line for line in (serve.file.parent / "log").read_text().splitlines() if "rollout.begun" in line]
        assert [json.loads(line)["actor"] == "SIGHUP" for line in noted] == [how == "signal"]


async def test_an_engine_that_fails_leaves_the_old_one_in_its_place(start_serve: StartServe) -> None:
    async with start_serve("model = 'm'\nmax_model_len = 100", "--rollout", "surge") as serve:
        await serve.until_ready(1)
        async with steady_load(serve) as answers:
            serve.file.write_text("model = 'm'\nmax_model_len = 200\nengine_args = ['--fail']")
            status, said = await serve.rollout()
            assert status == 1
            assert "the old one stays" in said
            assert "unrecognized arguments: --fail" in said, "why it failed"
        assert {status for status, _ in answers} == {200}
        assert [engine["name"] for engine in (await serve.status())["engines"]] == ["engine-0"]
        assert (await serve.ask()).json()["created"] == 100


async def test_in_place_the_old_one_is_started_again_where_the_new_one_fails(start_serve: StartServe) -> None:
    async with start_serve("model = 'm'\nmax_model_len = 100", "--rollout", "in_place") as serve:
        await serve.until_ready(1)
        serve.file.write_text("model = 'm'\nengine_args = ['--fail']")
        status, said = await serve.rollout()
        assert (status, "in place of engine-0" in said) == (1, True)
        await serve.until_ready(1)
        assert (await serve.ask()).json()["created"] == 100


async def test_an_engine_that_sleeps_meanwhile_is_woken_where_the_new_one_fails(start_serve: StartServe) -> None:
    flags = ("--rollout", "in_place", "--engine-sleep", "--idle-probe-s", "0.1", "--engine-stall-s", "0.2")
    async with start_serve("model = 'm'\nmax_model_len = 100", *flags) as serve:
        await serve.until_ready(1)
        serve.file.write_text("model = 'm'\nengine_args = ['--fail']")
        assert (await serve.rollout())[0] == 1
        await serve.until_ready(1)
        assert (await serve.ask()).json()["created"] == 100
        assert [(engine["name"], engine["restarts"]) for engine in (await serve.status())["engines"]] == [
            ("engine-0", 0)
        ]
        serve.file.write_text("model = 'm'\nmax_model_len = 200")
        assert (await serve.rollout())[0] == 0
        assert (await serve.ask()).json()["created"] == 200


async def test_a_stream_outlives_the_replacement_of_its_engine(start_serve: StartServe, tmp_path: Path) -> None:
    async with start_serve("model = 'm'\nmax_model_len = 100", "--rollout", "surge") as serve:
        await serve.until_ready(1)
        async with connect(serve.url) as raw:
            await raw.request("POST", "/v1/completions", {"model": "m", "prompt": "hold", "stream": True})
            await raw.read_head()
            serve.file.write_text("model = 'm'\nmax_model_len = 200")
            serve.process.send_signal(signal.SIGHUP)
            await serve.until(lambda status: len(status["engines"]) == 2 and status["replicas"][0]["draining"])
            assert (await serve.ask()).json()["created"] == 200, "what is new goes to the new one"
            (tmp_path / "release").touch()
            assert b"[DONE]" in await raw.read_some()
        await serve.until(lambda status: status["rollout"]["state"] == "done")


async def test_wrong_settings_change_nothing(start_serve: StartServe) -> None:
    async with start_serve("model = 'm'") as serve:
        await serve.until_ready(1)
        serve.file.write_text("model = 'm'\nmax_model_len = -1")
        status, said = await serve.rollout()
        assert status == 1
        assert "max_model_len" in said
        assert [engine["name"] for engine in (await serve.status())["engines"]] == ["engine-0"]


async def test_nothing_is_replaced_where_nothing_changed_unless_forced(start_serve: StartServe) -> None:
    async with start_serve("model = 'm'") as serve:
        await serve.until_ready(1)
        assert (await serve.rollout())[1].splitlines()[-1] == "forebay: 0 engines replaced"
        assert (await serve.rollout("--force"))[1].splitlines()[-1] == "forebay: 1 engines replaced"


async def test_only_an_admin_key_rolls_out(start_serve: StartServe) -> None:
    async with start_serve("model = 'm'\napi_keys = ['sk-user']") as serve:
        path = "/admin/v1/rollout"
        for headers, status in (({}, 401), ({"authorization": "Bearer sk-user"}, 403)):
            assert (await fetch(serve.url, "POST", path, {}, **headers)).status == status
        assert (await fetch(serve.url, "POST", path, {"force": "perhaps"}, **ADMIN)).status == 400
        assert (await fetch(serve.url, "GET", path, **ADMIN)).json()["state"] == "none"
        assert (await fetch(serve.url, "POST", "/v1/completions", {"model": "m"}, **ADMIN)).status == 403
    async with start_serve("model = 'm'", FOREBAY_ADMIN_KEYS="") as serve:
        assert (await fetch(serve.url, "GET", path, **ADMIN)).status == 401


MODELS = """
max_model_len = 100
api_keys = []
[[models]]
model = "one"
[[models]]
model = "two"
served_model_name = "second"
max_model_len = 200
[[models]]
model = "two-next"
served_model_name = "second"
max_model_len = 300
model_group = "next"
[group_weights]
next = 0
"""


async def test_several_models_each_with_its_engines_and_versions(start_serve: StartServe) -> None:
    async with start_serve(MODELS) as serve:
        await serve.until_ready(3)
        listed = (await fetch(serve.url, "GET", "/v1/models")).json()["data"]
        assert {card["id"] for card in listed} == {"one", "second"}
        assert (await serve.ask("one")).json()["created"] == 100
        assert {(await serve.ask("second", user=str(n))).json()["created"] for n in range(10)} == {200}
        assert (await serve.ask("three")).status == 404


async def test_a_model_may_be_added_by_a_rollout(start_serve: StartServe) -> None:
    async with start_serve("[[models]]\nmodel = 'one'") as serve:
        await serve.until_ready(1)
        serve.file.write_text("[[models]]\nmodel = 'one'\n[[models]]\nmodel = 'two'")
        assert (await serve.rollout())[0] == 0
        assert (await serve.ask("two")).status == 200
        serve.file.write_text("[[models]]\nmodel = 'two'")
        assert (await serve.rollout())[0] == 0
        assert (await serve.ask("one")).status == 404


def test_what_runs_is_paired_with_what_is_wanted() -> None:
    assert plan(["a", "b"], ["a", "b"]) == ([], [], [])
    assert plan(["a", "a"], ["b", "b"]) == ([(0, 0), (1, 1)], [], [])
    assert plan(["a", "b"], ["b", "c"]) == ([(0, 1)], [], [])
    assert plan(["a"], ["a", "c"]) == ([], [1], [])
    assert plan(["a", "b"], ["b"]) == ([], [], [0])
    assert plan(["a"], ["a"], force=True) == ([(0, 0)], [], [])


def test_memory_is_what_the_machine_and_the_control_group_leave(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert available_bytes(meminfo, tmp_path) == 2000
