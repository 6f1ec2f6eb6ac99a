"""What the log says of requests: whose a line is, nothing secret, nothing that a caller could forge."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.command import gateway_process, on_terminal
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import fetch
from tests.waiting import all_ready

CANARY = "canary-5d1e7b"
TRACE = "c" * 32
MINE = {**AUTH, "x-request-id": "mine", "traceparent": f"00-{TRACE}-{'d' * 16}-01"}
OF_A_REQUEST = {"request_id", "trace_id", "key_id", "tenant", "endpoint", "model"}


def mentions(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line.get(name) for name in ("request_id", "trace_id", "endpoint", "model")}


@pytest.mark.parametrize(
    ("loss", "stream", "message"),
    [
        (Behaviour(status=500), False, "an attempt failed; another is made"),
        (Behaviour(faults=[Fault("mid_head", "close")]), True, "an attempt failed; another is made"),
        (Behaviour(faults=[Fault("token", "reset", after=2)]), True, "a stream is taken over"),
    ],
)
async def test_the_line_of_an_attempt_that_failed_says_whose_it_was(
    loss: Behaviour, stream: bool, message: str, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        left = [loss]
        one.default = two.default = lambda record: left.pop() if left else Behaviour()
        body = chat_body(stream=stream, max_tokens=4, messages=[{"role": "user", "content": CANARY}])
        assert (await fetch(running.url, "POST", CHAT, body, **MINE)).status == 200
        await running.stop()
        (failed,) = [line for line in running.log_lines() if line["message"] == message]
        (access,) = [line for line in running.log_lines() if line["message"] == "request"]
        assert failed["level"] == "warning"
        assert {name: failed[name] for name in OF_A_REQUEST} == {name: access[name] for name in OF_A_REQUEST}
        assert mentions(failed) == {
            "request_id": "mine",
            "trace_id": TRACE,
            "endpoint": "chat_completions",
            "model": "fake-model",
        }
        assert failed["replica"] in (one.url, two.url)
        assert failed["why"]
        assert CANARY not in running.log_file.read_text()


def broken(*_: object) -> Any:
    """A bug."""
    raise KeyError(CANARY)


async def test_the_line_of_a_bug_says_whose_request_and_where_and_not_what_the_request_said(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        running.gateway.pipeline.replicas.groups = broken  # type: ignore[method-assign]
        assert (await fetch(running.url, "POST", CHAT, chat_body(), **MINE)).status == 500
        await running.stop()
        (line,) = [line for line in running.log_lines() if line["level"] == "error"]
        assert (line["request_id"], line["trace_id"], line["endpoint"]) == ("mine", TRACE, "chat_completions")
        assert line["key_id"] == line["tenant"] != ""
        assert "in broken" in line["exception"]
        assert "KeyError" in line["exception"]
        assert CANARY not in line["exception"]


async def test_the_lines_of_what_is_not_relayed_say_whose_they_are_too(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin-key",)) as running:
        await fetch(running.url, "GET", f"/v1/models?x={CANARY}", **MINE)
        await fetch(running.url, "GET", "/debug/runtime", authorization="Bearer sk-wrong-key", **{"x-api-key": "x"})
        running.gateway.status = broken  # type: ignore[method-assign]
        await fetch(running.url, "GET", "/health", **{"x-request-id": "broken"})
        await running.stop()
        lines = running.log_lines()
        (listed,) = [line for line in lines if line.get("path") == "/v1/models"]
        assert (listed["request_id"], listed["trace_id"], listed["status"]) == ("mine", TRACE, 200)
        assert listed["key_id"] == listed["tenant"] != ""
        assert listed["client"] == "127.0.0.1"
        (refused,) = [line for line in lines if line.get("path") == "/debug/runtime"]
        assert (refused["status"], "key_id" in refused) == (401, False)
        assert CANARY not in running.log_file.read_text()


async def test_a_bug_beside_the_relay_is_answered_with_its_id_and_has_its_line(start_gateway: StartGateway) -> None:
    origin = "https://page.example"
    async with start_gateway(ready=False, cors_origins=(origin,)) as running:
        running.gateway.replicas.model_cards = broken  # type: ignore[method-assign]
        failed = await fetch(running.url, "GET", "/v1/models", origin=origin, **MINE)
        assert (failed.status, error_of(failed)["code"]) == (500, "internal_error")
        told = (failed.header("x-request-id"), failed.header("access-control-allow-origin"))
        assert told == ("mine", origin)
        await running.stop()
        (line,) = [line for line in running.log_lines() if line.get("path") == "/v1/models"]
        assert (line["status"], line["request_id"], line["level"]) == (500, "mine", "info")


async def test_nobody_can_forge_a_line_or_put_a_secret_into_one(start_gateway: StartGateway) -> None:
    """Hostile request ids, models, paths, tenants and headers of every kind that holds a secret."""
    evil = f'x\n{{"level":"error","message":"forged"}}\r\x1b[31m\u202e\u2028{CANARY}'
    secret = {
        "x-api-key": f"sk-{CANARY}",
        "cookie": f"session={CANARY}",
        "proxy-authorization": f"Basic {CANARY}",
        "tracestate": f"a={CANARY}",
        "baggage": f"user={CANARY}",
        "referer": f"https://me:{CANARY}@x/",
        "user-agent": CANARY,
        "x-forwarded-for": CANARY,
        "x-request-id": f"not/an/id {CANARY}",
        "traceparent": f"00-{CANARY}",
    }
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for model in (evil, "fake-model:" + evil, CANARY):
            await fetch(running.url, "POST", CHAT, chat_body(model=model), **{**AUTH, **secret})
        path = "/v1/" + "".join(f"%{byte:02x}" for byte in evil.replace(CANARY, "").encode())
        await fetch(running.url, "GET", path, **AUTH)
        await fetch(running.url, "GET", f"/v1/models?api_key={CANARY}", authorization=f"Bearer {CANARY}")
        await running.stop()
        written = running.log_file.read_bytes()
        lines = running.log_lines()
        assert len(lines) == written.count(b"\n")
        assert [line for line in lines if line["message"] == "forged"] == []
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]", written.decode())
        assert CANARY not in written.decode()
        assert any(line.get("path", "").startswith("/v1/x\n") for line in lines), "it is told, in escapes"


async def test_a_share_of_requests_is_logged_and_all_that_failed_or_were_slow(start_gateway: StartGateway) -> None:
    flags: dict[str, Any] = {"access_log_sample_ratio": 0.0, "slow_request_s": 1.5}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        for _ in range(20):
            await chat(running.url, max_tokens=1)
            await fetch(running.url, "GET", "/v1/models", **AUTH)
        await chat(running.url, model="nope")
        await fetch(running.url, "GET", "/v1/nowhere", **AUTH)
        engine.script(Behaviour(faults=[Fault("token", "reset", after=1)]))
        await chat(running.url, stream=True, logprobs=True, max_tokens=3)
        gate = asyncio.Event()
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        slow = asyncio.create_task(chat(running.url))
        await asyncio.sleep(1.55)
        gate.set()
        await slow
        await running.stop()
        lines = [line for line in running.log_lines() if line["message"] == "request"]
        assert [(line["status"], line.get("outcome")) for line in lines] == [
            (404, "refused"),
            (404, None),
            (200, "failed"),
            (200, "answered"),
        ]


async def test_half_of_the_requests_is_about_half(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, access_log_sample_ratio=0.5) as running:
        await asyncio.gather(*(chat(running.url, max_tokens=1) for _ in range(200)))
        await running.stop()
        assert 60 < len([line for line in running.log_lines() if line["message"] == "request"]) < 140


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
async def test_a_terminal_gets_colours_unless_it_wants_none(
    env: dict[str, str], coloured: bool, tmp_path: Path
) -> None:
    flags = ("--upstream", "http://127.0.0.1:1", "--port", "0")
    async with on_terminal(tmp_path, "gateway", *flags, **env) as terminal:
        await terminal.until("listening on")
        await terminal.until("replica")
        terminal.process.send_signal(signal.SIGTERM)
        await terminal.until("draining")
        assert await terminal.status() == 0
        assert ("\x1b[32mINFO" in terminal.shown) is coloured
        assert re.search(r"\d\d:\d\d:\d\d", terminal.shown)


async def test_a_log_file_that_was_moved_is_made_again_at_sighup(tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "moved"
    async with FakeEngine() as engine, gateway_process(engine.url, "--log-file", str(path)) as (process, url):
        await chat(url, max_tokens=1)
        async with asyncio.timeout(20):
            while '"request"' not in path.read_text():
                await asyncio.sleep(0.01)
            path.rename(moved)
            process.send_signal(signal.SIGHUP)
            while not path.exists() or "settings read again" not in path.read_text() + moved.read_text():
                await asyncio.sleep(0.01)
            await chat(url, max_tokens=1)
            while '"request"' not in path.read_text():
                await asyncio.sleep(0.01)
    assert [json.loads(line)["message"] for line in moved.read_text().splitlines()].count("request") == 1


@pytest.mark.parametrize("sink", ["a pipe that nobody reads", "/dev/full"])
async def test_a_sink_that_takes_nothing_holds_up_neither_requests_nor_the_end(sink: str, tmp_path: Path) -> None:
    path = Path(sink) if sink.startswith("/") else tmp_path / "fifo"
    if not path.exists():
        os.mkfifo(path)
    flags = ("--log-file", str(path), "--log-level", "debug")
    async with FakeEngine() as engine, gateway_process(engine.url, *flags) as (process, url):
        for _ in range(3):
            answers = await asyncio.gather(*(chat(url, max_tokens=1) for _ in range(100)))
            assert {answer.status for answer in answers} == {200}
        async with asyncio.timeout(20):
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
