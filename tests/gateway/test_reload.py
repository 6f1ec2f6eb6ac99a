"""Settings that change while a gateway runs: followed as a whole, or not at all; and nobody's request fails."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.config.sources import Loader
from forebay.gateway.reloading import Reloading
from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.command import gateway_process, within
from tests.gateway.conftest import KEY, Running, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import connect, fetch
from tests.waiting import until

OURS = {"port": 0, "health_interval_s": 0.2, "drain_timeout_s": 5.0, "routing": "least_outstanding"}
GOOD = f'api_keys = ["{KEY}"]\n'


@asynccontextmanager
async def reloadable(
    start_gateway: StartGateway, file: Path, text: str = GOOD
) -> AsyncIterator[tuple[Running, Reloading, FakeEngine]]:
    """A gateway with a file of settings, not watched."""
    replace(file, text)
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        same = {"upstream": (engine.url,), "usage_spool_dir": running.gateway.settings.usage_spool_dir}
        reloading = Reloading(running.gateway, Loader.of({}, file, {**OURS, **same}), 0.02)
        running.gateway.reloading = reloading
        assert await reloading.reload()
        yield running, reloading, engine


def replace(file: Path, text: str) -> None:
    """Change a file as careful writers do."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


async def test_keys_aliases_and_caps_are_followed_at_once(start_gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, _):
        assert (await chat(running.url, n=3)).status == 200
        async with connect(running.url) as kept:
            await kept.request("POST", CHAT, chat_body(), AUTH)
            assert (await kept.read_response("POST")).status == 200
            replace(
                file,
                'api_keys = ["sk-new"]\nadmin_keys = ["sk-admin"]\nmax_n = 2\nmax_body_bytes = 2000\n'
                'model_aliases = { other = "fake-model" }\ncache_models = ["*"]\nshow_replica = "always"\n',
            )
            assert await reloading.reload()
            await kept.request("POST", CHAT, chat_body(), AUTH)
            assert (await kept.read_response("POST")).status == 401
            new = {"authorization": "Bearer sk-new"}
            await kept.request("POST", CHAT, chat_body(model="other", temperature=0), new)
            answer = await kept.read_response("POST")
            assert (answer.status, answer.header("x-forebay-cache")) == (200, "miss")
            assert answer.header("x-forebay-replica") is not None
            await kept.request("POST", CHAT, chat_body(n=3), new)
            assert (await kept.read_response("POST")).status == 400
            await kept.request("POST", CHAT, chat_body(user="x" * 2000), new)
            assert (await kept.read_response("POST")).status == 413
        admin = await fetch(running.url, "GET", "/admin/v1/rollout", None, authorization="Bearer sk-admin")
        assert admin.status == 404


async def test_what_takes_a_restart_is_named_and_left_alone(start_gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, _):
        replace(file, GOOD + "health_interval_s = 9.0\nmax_n = 2\n")
        assert await reloading.reload()
        assert (running.gateway.settings.max_n, running.gateway.settings.health_interval_s) == (2, 0.2)
        told = (await fetch(running.url, "GET", "/healthz", **AUTH)).json()["config"]
        assert told["restart_needed"] == ["health_interval_s"]


WRONG = {
    "broken": ('api_keys = ["sk-a"', "not valid TOML"),
    "half a line": (GOOD + "max_n = 2\nmax_sto", "line 3"),
    "unknown key": (GOOD + "max_m = 2\n", "max_m: no such setting (from {file}:2)"),
    "wrong type": (GOOD + '\nmax_n = "many"\n', "max_n: Input should be a valid integer"),
    "its line": (GOOD + '\nmax_n = "many"\n', "{file}:3"),
    "out of range": (GOOD + "max_n = 0\n", "max_n: Input should be greater"),
    "not a number": (GOOD + "stall_timeout_s = nan\n", "stall_timeout_s: "),
    "infinite": (GOOD + "stall_timeout_s = inf\n", "stall_timeout_s: "),
    "given twice": (GOOD + "max_n = 2\nmax_n = 3\n", "line 3"),
    "empty": ("", "is empty"),
    "without keys": ("max_n = 2\n", "api_keys: there is no key any more"),
    "an empty key": ('api_keys = [""]\n', "api_keys: a key is empty"),
    "not text": ("\udcff = 1", "not valid TOML"),
    "no such address": (GOOD + 'upstream = ["ftp://x"]\n', "upstream: 'ftp://x' is not http"),
    "no engines": (GOOD + "upstream = []\n", "upstream: there is no engine any more"),
    "too deep": ("x = " + "[" * 5000, "{file}: "),
}


@pytest.mark.parametrize(("text", "told"), WRONG.values(), ids=WRONG.keys())
async def test_wrong_settings_change_nothing_and_say_why(
    text: str, told: str, start_gateway: StartGateway, tmp_path: Path
) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, _):
        before = running.gateway.settings
        file.write_bytes(text.encode(errors="surrogateescape"))
        assert not await reloading.reload()
        assert running.gateway.settings is before
        assert (await chat(running.url)).status == 200
        config = (await fetch(running.url, "GET", "/healthz", **AUTH)).json()["config"]
        assert told.format(file=file) in config["why"]
        figures = running.figures()
        assert figures['forebay_config_reloads_total{result="failed"}'] == 1
        assert figures["forebay_config_last_reload_successful"] == 0
        replace(file, GOOD)
        assert await reloading.reload()
        assert running.figures()["forebay_config_last_reload_successful"] == 1
        await running.stop()
        (line,) = [line for line in running.log_lines() if "nothing has changed" in line["message"]]
        assert told.format(file=file) in line["why"]


async def test_a_file_that_is_gone_changes_nothing(start_gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, _):
        file.unlink()
        assert not await reloading.reload()
        assert "cannot be read" in reloading.why
        assert (await chat(running.url)).status == 200


async def test_the_watch_follows_a_file_once_it_stays_the_same(start_gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, _):
        watching = asyncio.create_task(reloading.watch())
        writing = file.open("w")
        for number in range(20):
            writing.write(f"# line {number}, and the keys are still to come\n")
            writing.flush()
            await asyncio.sleep(0.01)
        writing.write(GOOD + "max_n = 3\n")
        writing.close()
        await until(lambda: running.gateway.settings.max_n == 3)
        assert reloading.counts == {"ok": 2, "failed": 0}
        replace(file, GOOD + "max_n = 4\n")
        await until(lambda: running.gateway.settings.max_n == 4)
        file.unlink()
        await until(lambda: reloading.counts["failed"] == 1)
        await asyncio.sleep(0.2)
        assert reloading.counts == {"ok": 3, "failed": 1}
        replace(file, GOOD)
        await until(lambda: running.gateway.settings.max_n == 8)
        watching.cancel()


async def test_reloading_all_the_time_fails_no_request(start_gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, _):
        stop, statuses = asyncio.Event(), list[int]()

        async def client(number: int) -> None:
            async with connect(running.url) as raw:
                while not stop.is_set():
                    await raw.request("POST", CHAT, chat_body(stream=bool(number % 2), temperature=0), AUTH)
                    answer = await raw.read_response("POST")
                    statuses.append(answer.status if answer.ended == "complete" else 0)

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        for number in range(20):
            turns = f'max_n = {2 + number % 5}\nrouting = "{("prefix", "round_robin")[number % 2]}"\n'
            cached = f'cache_models = ["*"]\ncache_max_bytes = {number % 3 * 100_000}\n'
            broken = "" if number % 4 else "max_n = 1"
            replace(file, f'api_keys = ["{KEY}", "sk-{number}"]\n{turns}{cached}{broken}')
            assert await reloading.reload() is (number % 4 != 0)
            await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*clients)
        assert set(statuses) == {200}
        assert len(statuses) > 100


async def test_engines_may_come_and_go_with_the_file(start_gateway: StartGateway, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, one), FakeEngine() as two:
        stop, statuses = asyncio.Event(), set[int]()

        async def client() -> None:
            while not stop.is_set():
                statuses.add((await chat(running.url)).status)

        clients = [asyncio.create_task(client()) for _ in range(4)]
        replace(file, f'{GOOD}upstream = ["{one.url}", "{two.url}#canary"]\ngroup_weights = {{ default = 0 }}\n')
        assert await reloading.reload()
        await until(lambda: len(two.calls(CHAT)) > 10)
        replace(file, f'{GOOD}upstream = ["{two.url}"]\n')
        assert await reloading.reload()
        await until(lambda: [replica.name for replica in running.gateway.replicas] == [two.url])
        assert [replica.group for replica in running.gateway.replicas] == ["default"]
        before, asked = len(one.calls(CHAT)), len(two.calls(CHAT))
        await until(lambda: len(two.calls(CHAT)) > asked + 10)
        assert len(one.calls(CHAT)) == before
        stop.set()
        await asyncio.gather(*clients)
        assert statuses == {200}


async def test_a_hundred_thousand_keys_are_followed_without_holding_anybody_up(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    file = tmp_path / "forebay.toml"
    async with reloadable(start_gateway, file) as (running, reloading, _):
        keys = ",\n".join(f'"sk-{number:032d}"' for number in range(100_000))
        replace(file, f'api_keys = [{keys}, "{KEY}"]\n')
        longest, loop = 0.0, asyncio.get_running_loop()
        began = loop.time()
        reload = asyncio.create_task(reloading.reload())
        while not reload.done():
            started = loop.time()
            assert (await chat(running.url)).status == 200
            longest = max(longest, loop.time() - started)
        assert await reload
        assert longest < (loop.time() - began) / 2
        last = {"authorization": f"Bearer sk-{99_999:032d}"}
        assert (await fetch(running.url, "POST", CHAT, chat_body(), **last)).status == 200


async def test_sighup_has_a_gateway_read_its_file_again(tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    file.write_text("max_n = 2\n")
    async with FakeEngine() as engine, gateway_process(engine.url, "--config", str(file)) as (process, url):
        assert (await chat(url, n=3)).status == 400
        replace(file, "max_n = 3\n")
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while (await chat(url, n=3)).status != 200:
                await asyncio.sleep(0.01)
        assert process.returncode is None


async def test_config_check_says_what_is_wrong_and_config_show_keeps_secrets(tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    file.write_text(
        'api_keys = ["sk-canary"]\nmax_n = 3\ncache_models = ["*"]\nprices.m = {prompt = 1, completion = 2.5}\n'
    )
    env = {"REDIS_URL": "redis://:canary@127.0.0.1", "LOG_LEVEL": "debug"}
    checked = await within(tmp_path, "config", "check", "--config", str(file), **env)
    assert (checked.status, checked.out) == (0, "valid; set: 6\n")
    shown = await within(tmp_path, "config", "show", "--config", str(file), **env)
    assert shown.status == 0
    assert shown.out.splitlines() == [
        f'api_keys = ["***"]  # {file}:1',
        f'cache_models = ["*"]  # {file}:3',
        'log_level = "debug"  # LOG_LEVEL',
        f"max_n = 3  # {file}:2",
        f'prices = {{"m": {{"prompt": "1", "completion": "2.5"}}}}  # {file}:4',
        'redis_url = "***"  # REDIS_URL',
    ]
    file.write_text("max_n = 0\nprot = 1\n")
    wrong = await within(tmp_path, "config", "check", "--config", str(file))
    assert (wrong.status, wrong.out) == (2, "")
    assert f"max_n: Input should be greater than or equal to 1 (from {file}:1)" in wrong.err
    assert f"prot: no such setting (from {file}:2)" in wrong.err
    file.write_text('upstream = ["ftp://x"]')
    wrong = await within(tmp_path, "config", "check", "--config", str(file))
    assert (wrong.status, "upstream: 'ftp://x' is not http" in wrong.err) == (2, True)
