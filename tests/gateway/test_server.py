"""The client's side: who may call, what may be asked, how large and how slow, and in what form a no comes."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, exchange, fetch

POST_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-test\r\n"


async def post_raw(running: Running, body: bytes, content_type: str = "application/json") -> Any:
    async with connect(running.url) as raw:
        head = POST_HEAD + f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        await raw.send(head + body)
        return await raw.read_response("POST")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer sk-wrong"},
        {"authorization": "Basic c2stdGVzdA=="},
        {"authorization": "Bearer  sk-test"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer sk-test\xff"},
        {"authorization": "Bearer " + "k" * 5000},
        {"x-api-key": "' OR 1=1"},
        {"x-api-key": "sk-tes"},
    ],
    ids=repr,
)
async def test_whoever_has_no_valid_key_is_refused_everywhere(
    headers: dict[str, str], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for method, target in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/v1/responses/r1")):
            answer = await fetch(running.url, method, target, chat_body() if method == "POST" else None, **headers)
            assert (answer.status, error_of(answer)["code"]) == (401, "invalid_api_key"), target
            assert answer.header("www-authenticate") == "Bearer"
            assert answer.header("x-request-id")
        assert engine.calls(CHAT) == []


async def test_two_authorization_headers_are_refused(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answers, _ = await exchange(
            running.url, POST_HEAD + b"Authorization: Bearer sk-test\r\nContent-Length: 0\r\n\r\n"
        )
        assert answers.startswith(b"HTTP/1.1 401 ")


async def test_either_header_carries_a_key(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for headers in (AUTH, {"authorization": "bearer sk-test"}, {"x-api-key": "sk-test"}):
            assert (await fetch(running.url, "POST", CHAT, chat_body(), **headers)).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/pause",
        "/sleep",
        "/collective_rpc",
        "/v1/load_lora_adapter",
        "/scale_elastic_ep",
        "/server_info",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/chat/%63ompletions",
        "/v1/../v1/chat/completions",
    ],
)
async def test_no_other_path_reaches_an_engine(path: str, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for method in ("GET", "POST"):
            answer = await fetch(running.url, method, path, chat_body() if method == "POST" else None, **AUTH)
            assert answer.status == 404
            assert error_of(answer)["code"] == "not_found"
        assert engine.calls(path) == []


async def test_a_wrong_method_is_405_and_says_which_is_right(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for method, path, allowed in (
            ("GET", CHAT, "POST"),
            ("DELETE", "/v1/models", "GET"),
            ("GET", "/generate", "POST"),
            ("DELETE", "/v1/responses/resp_1", "GET"),
            ("GET", "/v1/responses/resp_1/cancel", "POST"),
            ("PUT", "/v1/conversations/c", "DELETE, GET"),
        ):
            answer = await fetch(running.url, method, path, **AUTH)
            assert (answer.status, answer.header("allow")) == (405, allowed)
            assert error_of(answer)["code"] == "method_not_allowed"
        odd = await fetch(running.url, "GET", "/v1/responses/resp_1?x=" + "y" * 300, **AUTH)
        assert (odd.status, odd.header("allow")) == (404, None), "it is not the method that is wrong"


async def test_a_mark_with_no_query_behind_it_is_no_other_path(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        assert (await fetch(running.url, "POST", CHAT + "?", chat_body(), **AUTH)).status == 200


BAD_BODIES = {
    "empty": (b"", "invalid_json"),
    "no json": (b"{nope", "invalid_json"),
    "array": (b"[1]", "invalid_json"),
    "string": (b'"x"', "invalid_json"),
    "bom": (b"\xef\xbb\xbf{}", "invalid_json"),
    "utf-16": ('{"model":"x"}'.encode("utf-16"), "invalid_json"),
    "bad utf-8": (b'{"model":"fake-model","x":"\xff"}', "invalid_json"),
    "lone surrogate": (b'{"model":"\\ud800"}', "invalid_json"),
    "trailing": (b'{"model":"x"} x', "invalid_json"),
    "NaN": (b'{"model":"fake-model","x":NaN}', "invalid_json"),
    "deep": (b'{"x":' + b"[" * 1000 + b"]" * 1000 + b"}", "invalid_json"),
    "deeper": (b"[" * 100_000, "invalid_json"),
    "no model": (b"{}", "invalid_value"),
    "model is a number": (b'{"model":1}', "invalid_value"),
    "n too large": (b'{"model":"fake-model","n":16384}', "invalid_value"),
    "n is a float": (b'{"model":"fake-model","n":1.5}', "invalid_value"),
    "n is true": (b'{"model":"fake-model","n":true}', "invalid_value"),
    "n is zero": (b'{"model":"fake-model","n":0}', "invalid_value"),
    "max_tokens negative": (b'{"model":"fake-model","max_tokens":-1}', "invalid_value"),
    "priority": (b'{"model":"fake-model","priority":-9}', "invalid_value"),
    "request_id": (b'{"model":"fake-model","request_id":"x"}', "invalid_value"),
    "unknown model": (b'{"model":"gpt-9"}', "model_not_found"),
}


@pytest.mark.parametrize(("body", "code"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_bad_body_is_refused_with_its_reason(body: bytes, code: str, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answer = await post_raw(running, body)
        assert answer.status == (404 if code == "model_not_found" else 400)
        assert error_of(answer)["code"] == code
        assert error_of(answer)["type"] == "invalid_request_error"
        assert len(answer.body) < 4096
        assert engine.calls(CHAT) == []


async def test_other_content_types_are_refused(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
            assert (await post_raw(running, b"{}", content_type)).status == 415
        assert (
            await post_raw(running, json.dumps(chat_body()).encode(), "application/json; charset=utf-8")
        ).status == 200


async def test_anthropic_callers_are_refused_in_their_own_form(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answer = await fetch(running.url, "POST", "/v1/messages", {"model": "x"}, x_api_key="sk-test")
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] == "not_found_error"


LARGE = {
    "long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "long header": (POST_HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    "endless header": (POST_HEAD + b"X: " + b"a" * 400_000, 431),
    "many headers": (POST_HEAD + b"X: a\r\n" * 200 + b"\r\n", 431),
    "large length": (POST_HEAD + b"Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n", 413),
    "large chunks": (
        POST_HEAD
        + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"2000\r\n" + b" " * 0x2000 + b"\r\n") * 20,
        413,
    ),
    "endless trailers": (
        POST_HEAD
        + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"X: "
        + b"a" * 400_000,
        431,
    ),
    "gzip": (POST_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n", 415),
}


@pytest.mark.parametrize(("sent", "status"), LARGE.values(), ids=LARGE.keys())
async def test_what_is_too_large_is_refused_before_it_costs_anything(
    sent: bytes, status: int, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, max_body_bytes=100_000) as running:
        answers, _ = await exchange(running.url, sent)
        assert answers.startswith(b"HTTP/1.1 %d " % status), answers[:100]
        assert b"connection: close" in answers
        assert answers.count(b"HTTP/1.1") == 1
        assert (await chat(running.url)).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"POST /v1/chat/co", 408),
        (POST_HEAD + b"Content-Length: 100\r\nContent-Type: application/json\r\n\r\n{", 408),
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_request_that_does_not_arrive_in_time_is_given_up(
    sent: bytes, status: int | None, start_gateway: StartGateway
) -> None:
    slow = {"header_timeout_s": 0.3, "body_timeout_s": 0.3}
    async with FakeEngine() as engine, start_gateway(engine.url, **slow) as running:
        answers, ended = await exchange(running.url, sent)
        assert ended == "eof"
        if status is None:
            assert answers == b""
        else:
            assert answers.startswith(b"HTTP/1.1 %d " % status)
            assert b"x-should-retry: false" in answers


async def test_a_request_that_dribbles_is_given_up_too(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, header_timeout_s=0.5) as running:
        async with connect(running.url) as raw:
            dribble = asyncio.create_task(raw.send_pieces(b"GET /health HTTP/1.1\r\nX: " + b"a" * 400, 1, 0.02))
            answers, _ = await raw.read_until_end()
            dribble.cancel()
            assert answers.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", [b"/generate", b"/admin/v1/keys"])
@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"zz\r\n", 400), (b"fff\r\n" + b"x" * 0xFFF + b"\r\n", 413), (b"1\r\n", 408)],
    ids=["no chunk", "too large", "too slow"],
)
async def test_a_body_that_goes_wrong_midway_is_refused_by_the_application_too(
    path: bytes, sent: bytes, status: int, start_gateway: StartGateway
) -> None:
    flags: dict[str, Any] = {"max_body_bytes": 1024, "body_timeout_s": 0.1, "admin_keys": ("sk-admin",)}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, connect(running.url) as raw:
        key = b"sk-admin" if path.startswith(b"/admin") else b"sk-test"
        fields = b"Host: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n" % key
        await raw.send(b"POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" % (path, fields) + sent)
        refused = await raw.read_response("POST")
        assert (refused.status, refused.header("connection"), refused.ended) == (status, "close", "complete")
        assert error_of(refused)["code"]
        assert (await raw.read_response()).status == 0
    assert "Traceback" not in running.log_file.read_text()


async def test_an_idle_connection_is_closed_in_time(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, keepalive_timeout_s=0.3) as running:
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(), AUTH)
            assert (await raw.read_response("POST")).status == 200
            assert await raw.read_until_end() == (b"", "eof")


async def test_where_connections_run_out_those_that_rest_make_room(start_gateway: StartGateway) -> None:
    """The longest first, and none that was used a moment ago."""
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, max_connections=10) as running,
        AsyncExitStack() as open_ones,
    ):
        kept = [await open_ones.enter_async_context(connect(running.url)) for _ in range(10)]
        for raw in kept:
            await raw.request("POST", CHAT, chat_body(), AUTH)
            assert (await raw.read_response("POST")).status == 200
        assert (await chat(running.url)).status == 503
        assert await kept[0].read_until_end() == (b"", "eof")
        assert (await chat(running.url)).status == 200
        await kept[1].request("POST", CHAT, chat_body(), AUTH)
        assert (await kept[1].read_response("POST")).status == 200


async def test_pipelined_requests_of_every_kind_are_answered_in_order(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running, connect(running.url) as raw:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        for number in range(3):
            await raw.request("POST", CHAT, chat_body(), {**AUTH, "x-request-id": f"chat-{number}"})
            await raw.request("GET", "/health", None, {"x-request-id": f"health-{number}"})
        await engine.wait_for(lambda e: e.running == 1)
        gate.set()
        ids = [(await raw.read_response()).header("x-request-id") for _ in range(6)]
        assert ids == ["chat-0", "health-0", "chat-1", "health-1", "chat-2", "health-2"]


async def test_thousands_of_pipelined_requests_do_not_harm(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, connect(running.url) as raw:
        many = 3000
        await raw.send((POST_HEAD + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}") * many)
        statuses = [(await raw.read_response("POST")).status for _ in range(many)]
        assert statuses == [400] * many


async def test_expect_100_continue_is_honoured_before_the_body_only(start_gateway: StartGateway) -> None:
    body = json.dumps(chat_body()).encode()
    head = POST_HEAD + b"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with connect(running.url) as raw:
            await raw.send(head)
            assert (await raw.read_some()).startswith(b"HTTP/1.1 100 ")
            await raw.send(body)
            assert (await raw.read_response("POST")).status == 200
        refused, _ = await exchange(
            running.url, head.replace(b"sk-test", b"sk-none").replace(b"%d" % len(body), b"999999")
        )
        assert refused.startswith(b"HTTP/1.1 401 ")


async def test_http_1_0_gets_a_stream_without_chunks(start_gateway: StartGateway) -> None:
    body = json.dumps(chat_body(stream=True)).encode()
    head = POST_HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answer, ended = await exchange(running.url, head % len(body) + body)
        assert ended == "eof"
        assert b"transfer-encoding" not in answer
        assert answer.endswith(b"data: [DONE]\n\n")


async def test_browsers_may_call_from_the_origins_named(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, cors_origins=("https://ui.example",)) as running:
        good = await fetch(running.url, "POST", CHAT, chat_body(), **AUTH, origin="https://ui.example")
        bad = await fetch(running.url, "POST", CHAT, chat_body(), **AUTH, origin="https://evil.example")
        assert good.header("access-control-allow-origin") == "https://ui.example"
        assert bad.header("access-control-allow-origin") is None
        asking = {"origin": "https://ui.example", "access-control-request-method": "POST"}
        preflight = await fetch(running.url, "OPTIONS", CHAT, None, **asking)
        assert (preflight.status, preflight.header("access-control-allow-origin")) == (200, "https://ui.example")
        assert preflight.header("x-request-id")


async def test_each_request_is_one_log_line_without_prompt_answer_or_key(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        secret = "canary-prompt-7"
        headers = {**AUTH, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "x-request-id": "my-id"}
        body = chat_body(stream=True, max_tokens=3, messages=[{"role": "user", "content": secret}])
        await fetch(running.url, "POST", CHAT, body, **headers)
        await fetch(running.url, "GET", "/v1/models", **AUTH)
        await chat(running.url, model="nope")
        await running.stop()
        lines = [line for line in running.log_lines() if line["message"] == "request"]
        first, models, refused = lines
        assert (first["request_id"], first["status"], first["completion_tokens"]) == ("my-id", 200, 3)
        assert (first["endpoint"], first["model"], first["trace_id"]) == ("chat_completions", "fake-model", "a" * 32)
        assert first["key_id"].startswith("key-")
        assert first["tenant"] == first["key_id"]  # a configured key is a tenant of its own
        assert first["duration_ms"] > 0
        assert models["path"] == "/v1/models"
        assert (refused["status"], refused["error"]) == (404, "model_not_found")
        everything = running.log_file.read_text()
        assert secret not in everything
        assert "sk-test" not in everything
        assert " t0" not in everything
        assert engine.calls(CHAT)[0].headers["traceparent"] == headers["traceparent"]


async def test_metrics_count_what_happened(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        await chat(running.url, max_tokens=5)
        await chat(running.url, stream=True, max_tokens=5)
        answer = await fetch(running.url, "GET", "/metrics", **AUTH)
        assert answer.status == 200
        figures = running.figures()
        labels = 'endpoint="chat_completions",model="fake-model"'
        assert figures[f'forebay_requests_total{{{labels},status="200"}}'] == 2
        assert figures[f"forebay_completion_tokens_total{{{labels}}}"] == 10
        assert figures[f"forebay_request_duration_seconds_count{{{labels}}}"] == 2
        assert figures[f"forebay_time_to_first_token_seconds_count{{{labels}}}"] == 1
        assert figures["forebay_active_requests"] == 0
        assert figures[f'forebay_replica_ready{{replica="{engine.url}"}}'] == 1
