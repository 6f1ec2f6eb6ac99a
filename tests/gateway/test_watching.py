"""`forebay top`, `doctor`, `config` and shell completion as processes."""

import asyncio
import json
import socket
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest

from forebay.config.settings import Settings
from forebay.config.sources import load_settings
from tests.gateway.calls import chat
from tests.gateway.command import FOREBAY, Done, environment, forebay, on_terminal, within
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.servers import ValkeyServer


async def test_one_frame_tells_what_happened_within_the_interval(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine(tokens=4) as engine, start_gateway(engine.url) as running:
        over = False

        async def load() -> None:
            while not over:
                await chat(running.url, stream=True)
                await chat(running.url, model="nope")

        loading = asyncio.create_task(load())
        words = ("top", "--url", running.url, "--once", "--interval", "0.5")
        as_json, as_text = await forebay(tmp_path, *words, "--json"), await forebay(tmp_path, *words)
        over = True
        await loading
    assert (as_json.status, as_text.status) == (0, 0), as_json.err + as_text.err
    frame = json.loads(as_json.out)
    one = frame["models"]["fake-model"]
    assert 0.4 < frame["interval_s"] < 30
    assert one["completion_tokens_per_s"] == pytest.approx(one["requests_per_s"] * 4, rel=0.2)
    assert 0 < one["ttft_p50_s"] <= one["ttft_p95_s"] < 30
    assert frame["errors_per_s"]["model_not_found"] > 0
    assert frame["health"]["replicas"][0]["ready"] is True
    assert "\x1b" not in as_text.out
    for told in ("fake-model", "model_not_found", "TTFT p95", "ready", "closed"):
        assert told in as_text.out


async def test_top_says_why_it_cannot_look(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for url, env in ((running.url, {"FOREBAY_API_KEY": "no"}), (engine.url, {}), ("http://127.0.0.1:1", {})):
            done = await within(tmp_path, "top", "--once", "--interval", "0.1", "--url", url, **env)
            assert (done.status, done.out, len(done.err.splitlines())) == (1, "", 1)


async def test_top_on_a_terminal_goes_on_while_the_gateway_is_away(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        async with start_gateway(engine.url) as running:
            terminal_of = on_terminal(tmp_path, "top", "--url", running.url, "--interval", "0.1")
            terminal = await terminal_of.__aenter__()
            await terminal.until("closed", await terminal.until("fake-model"))
        await terminal.until("is a gateway running there?")
        terminal.type("\x03")
        assert await terminal.status() == 0
        await terminal_of.__aexit__(None, None, None)


# Doctor


@asynccontextmanager
async def telling_the_time(behind_s: int) -> AsyncIterator[str]:
    """The URL of who tells a time, and nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        date = formatdate(time() - behind_s, usegmt=True)
        writer.write(f"HTTP/1.1 401 No\r\ndate: {date}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def findings(done: Done) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in json.loads(done.out)["findings"]}


async def test_a_machine_without_an_engine_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "forebay.toml").write_text('engine_python = "/no/python"\nport = 0\n')
    done = await forebay(tmp_path, "doctor")
    assert done.status == 1
    assert "wrong    engine: there is no vLLM in /no/python\n         → install one" in done.out
    told = await forebay(tmp_path, "doctor", "--json", "--quick")
    found = findings(told)
    assert {"python", "platform", "driver", "shared memory", "open files", "clock", "hub token"} < set(found)
    assert json.loads(told.out)["ok"] is False
    assert [one["check"] for one in found.values() if one["level"] == "wrong"] == ["engine"], "a test machine is sound"


async def test_a_gateway_is_examined_with_all_that_it_needs(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with FakeEngine() as engine, telling_the_time(0) as clock:
        env = {"UPSTREAMS": engine.url, "REDIS_URL": valkey.url, "FOREBAY_REDIS_TIMEOUT_S": "2"}
        env |= {"FOREBAY_PORT": "0", "DATABASE_URL": f"sqlite:///{tmp_path}/new.db"}
        done = await within(tmp_path, "doctor", "--json", "--url", clock, **env)
        found = findings(done)
        assert [one for one in found.values() if one["level"] == "wrong"] == []
        assert (done.status, json.loads(done.out)["role"]) == (0, "gateway")
        assert "engine" not in found, "a gateway has none of its own"
        assert found[f"upstream {engine.url}"]["level"] == "ok"
        assert "answers in" in found["redis"]["told"]
        assert "will be made" in found["database"]["told"]
        assert not (tmp_path / "new.db").exists(), "a doctor changes nothing"


async def test_what_is_away_is_wrong_and_no_password_is_shown(tmp_path: Path) -> None:
    env = {"REDIS_URL": "redis://:geheim@127.0.0.1:1/0", "UPSTREAMS": "http://127.0.0.1:1,unix:///no/such,dns://x:1"}
    env |= {"DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x", "FOREBAY_PORT": "0"}
    done = await within(tmp_path, "doctor", "--json", **env)
    found = findings(done)
    assert done.status == 1
    assert (found["redis"]["level"], found["database"]["level"]) == ("wrong", "wrong")
    upstreams = [one["level"] for check, one in found.items() if check.startswith("upstream")]
    assert upstreams == ["warning", "warning", "ok"]
    assert "geheim" not in done.out + done.err
    assert all(bool(one["fix"]) == (one["level"] != "ok") for one in found.values())


async def test_a_port_is_free_or_taken_or_forebays_already(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for taken, level, told in (
            (running.url.rpartition(":")[2], "ok", "listens there already"),
            (str(engine.port), "wrong", "Address already in use"),
        ):
            done = await within(tmp_path, "doctor", "--json", "--role", "gateway", FOREBAY_PORT=taken)
            finding = findings(done)[f"port {taken} (gateway)"]
            assert (finding["level"], done.status) == (level, int(level == "wrong"))
            assert told in finding["told"]


async def test_an_agents_ports_are_looked_at_for_an_engine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"FOREBAY_ENGINE_PORT": str(port), "FOREBAY_AGENT_PORT": "0", "FOREBAY_ENGINE_PYTHON": "/no"}
        found = findings(await within(tmp_path, "doctor", "--json", "--role", "engine", **env))
    assert found[f"port {port} (engine)"]["level"] == "wrong"
    assert found["port 0 (agent)"]["level"] == "ok"


@pytest.mark.parametrize(("behind_s", "level"), [(0, "ok"), (20, "warning"), (7200, "wrong")])
async def test_the_clock_is_compared_with_another_machines(behind_s: int, level: str, tmp_path: Path) -> None:
    async with telling_the_time(behind_s) as url:
        words = ("doctor", "--json", "--role", "gateway", "--url", url)
        clock = findings(await within(tmp_path, *words, FOREBAY_PORT="0"))["clock"]
    assert (clock["level"], url in clock["told"]) == (level, True)


async def test_settings_that_are_wrong_are_a_finding_a_line(tmp_path: Path) -> None:
    (tmp_path / "forebay.toml").write_text('prot = 1\nlog_level = "loud"\n')
    done = await within(tmp_path, "doctor", "--role", "gateway")
    assert done.status == 1
    assert done.out.count("wrong    settings: ") == 2
    assert "forebay.toml:1" in done.out


# Settings


async def test_a_file_to_begin_with_has_every_setting_and_is_valid(tmp_path: Path) -> None:
    done = await forebay(tmp_path, "config", "init")
    assert done.status == 0
    text = (tmp_path / "forebay.toml").read_text()
    assert all(f"\n# {name} = " in text for name in Settings.model_fields)
    assert "make generate" not in text
    assert (await forebay(tmp_path, "config", "validate")).out == "valid; set: 0\n"
    (tmp_path / "forebay.toml").write_text(text.replace("# port = 8000", "port = 8123"))
    assert load_settings({}, {}, tmp_path / "forebay.toml")[0].port == 8123
    again = await forebay(tmp_path, "config", "init")
    assert (again.status, "is there already" in again.err) == (1, True)
    assert "port = 8123" in (tmp_path / "forebay.toml").read_text(), "it was not overwritten"
    assert (await forebay(tmp_path, "config", "init", "/no/such/x.toml")).status == 1


async def test_an_answer_that_finds_no_room_fails_in_a_line(tmp_path: Path) -> None:
    words = (FOREBAY, "config", "schema")
    with Path("/dev/full").open("w") as full:
        process = await asyncio.create_subprocess_exec(
            *words, env=environment(tmp_path), stdout=full, stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, len(err.splitlines()), b"No space left" in err) == (1, 1, True), err


async def test_settings_are_validated_and_shown_for_programs(tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    file.write_text(f'port = 8123\napi_keys = ["{KEY}"]\n')
    shown = json.loads((await within(tmp_path, "config", "show", "--json")).out)
    assert shown["port"] == {"value": 8123, "from": "forebay.toml:1"}
    assert shown["api_keys"]["value"] == ["***"]
    every = json.loads((await within(tmp_path, "config", "show", "--json", "--all")).out)
    assert (set(every), every["host"]["from"]) == (set(Settings.model_fields), "default")
    assert json.loads((await within(tmp_path, "config", "validate", "--json")).out)["valid"] is True
    file.write_text("prot = 1\n")
    for name in ("validate", "check"):
        done = await within(tmp_path, "config", name, "--json")
        told = json.loads(done.out)
        assert (done.status, told["valid"], len(told["problems"])) == (2, False, 1)
    bad = await within(tmp_path, "config", "validate", UPSTREAMS="ftp://x", FOREBAY_CONFIG="/dev/null")
    assert (bad.status, "upstream: " in bad.err) == (2, True)


async def test_the_schema_describes_every_setting_and_where_it_is_set(tmp_path: Path) -> None:
    schema = json.loads((await within(tmp_path, "config", "schema")).out)
    found = schema["properties"]
    assert set(found) == set(Settings.model_fields)
    assert schema["additionalProperties"] is False
    assert found["port"] | {"x-group": "server"} == found["port"]
    assert (found["port"]["maximum"], found["port"]["default"]) == (65_535, 8000)
    assert "API_KEYS" in found["api_keys"]["x-environment"]
    assert found["api_keys"]["x-secret"] is True
    assert not {"roles", "aliases"} & set(found["port"])
    example = tomllib.loads((Path(__file__).parents[2] / "forebay.example.toml").read_text())
    assert set(example) <= set(found)


# The shell


async def test_a_shell_gets_the_script_that_completes(tmp_path: Path) -> None:
    asked = await asyncio.create_subprocess_exec(
        *("bash", "-c", f'eval "$({FOREBAY} --show-completion)"; complete -p forebay'),
        env=environment(tmp_path),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asked.communicate()
    assert b"_completion forebay" in out


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("forebay do", "doctor"),
        ("forebay config va", "validate"),
        ("forebay chat --pre", "--preset"),
        ("forebay chat --preset cod", "code_generation"),
        ("forebay doctor --role g", "gateway"),
    ],
)
async def test_a_shell_completes_commands_options_and_presets(typed: str, completed: str, tmp_path: Path) -> None:
    env = {"_FOREBAY_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    assert (await forebay(tmp_path, **env)).out.split() == [completed]
