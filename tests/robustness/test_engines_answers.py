"""B1, B7, B8: answers that no engine should give. The caller is told, and the gateway neither grows nor stalls."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay.wire.usage import BYTES_PER_TOKEN
from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine
from tests.gateway.raw_client import fetch
from tests.robustness.lag import watched_loop

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
ANSWER = json.dumps(
    {
        "id": "c",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "é" * 50}}],
    }
)
EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
LINE = b"x-bomb: " + b"b" * 1000 + b"\r\n"


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


ENDLESS = {
    "trailers": CHUNKED + chunk(ANSWER.encode()) + b"0\r\n" + LINE * 2000,
    "one trailer": CHUNKED + chunk(ANSWER.encode()) + b"0\r\nx-bomb: " + b"b" * 2_000_000,
    "chunk extension": CHUNKED + b"5;" + b"e" * 2_000_000,
    "chunk size": CHUNKED + b"0" * 2_000_000,
}


@asynccontextmanager
async def gateway_of(engine: FakeEngine, start_gateway: StartGateway, **flags: Any) -> AsyncIterator[Running]:
    """A gateway that asks once: what is tried here would be asked of another engine, too."""
    async with start_gateway(engine.url, takeover_attempts=0, retry_attempts=1, **flags) as running:
        yield running


@pytest.mark.parametrize("raw", ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_comes_beside_the_body_is_bounded(raw: bytes, start_gateway: StartGateway) -> None:
    """B7. The engine would go on and on; 64 KiB are enough."""
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(Behaviour(raw=raw))
        async with watched_loop() as lag:
            answer = await asyncio.wait_for(chat(running.url), 30)
        assert (answer.status, error_of(answer)["code"]) == (502, "upstream_invalid_response")
        assert lag.worst_s < 0.1
        assert (await chat(running.url)).status == 200


async def test_a_few_trailers_and_extensions_are_no_fault(start_gateway: StartGateway) -> None:
    halves = chunk(ANSWER[:20].encode(), b";a=b") + chunk(ANSWER[20:].encode(), b";c" * 100)
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(Behaviour(raw=CHUNKED + halves + b"0\r\n" + LINE * 20 + b"\r\n"))
        assert (await chat(running.url)).status == 200


@pytest.mark.parametrize(
    ("stream", "behaviour"),
    [
        (False, Behaviour(body=EVENT, content_type="text/event-stream")),
        (True, Behaviour(body=ANSWER, content_type="application/json")),
        (False, Behaviour(body=ANSWER, content_type="text/plain")),
        (True, Behaviour(body=EVENT, content_type="text/html")),
        (False, Behaviour(body="{}", content_type="application/json")),
        (False, Behaviour(body='{"choices":null}', content_type="application/json")),
        (False, Behaviour(body="[]", content_type="application/json")),
        (False, Behaviour(body=b"", content_type="application/json")),
    ],
    ids=["stream", "json", "text", "html", "empty object", "null choices", "a list", "nothing"],
)
async def test_a_200_of_another_kind_than_was_asked_for_becomes_502(
    stream: bool, behaviour: Behaviour, start_gateway: StartGateway
) -> None:
    """B7."""
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(behaviour)
        answer = await chat(running.url, stream=stream)
        assert (answer.status, error_of(answer)["code"]) == (502, "upstream_invalid_response")
        assert (await chat(running.url, stream=stream)).status == 200


@pytest.mark.parametrize(("stream", "content_type"), [(False, "Application/JSON"), (True, "TEXT/event-stream")])
async def test_a_type_may_be_written_in_any_case(stream: bool, content_type: str, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(Behaviour(content_type=content_type))
        assert (await chat(running.url, stream=stream)).status == 200
        assert len(engine.calls(CHAT)) == 1


async def test_an_endless_stream_that_nobody_asked_for_is_cut_off_at_once(start_gateway: StartGateway) -> None:
    """B7. It is not collected first."""
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(Behaviour(body_bytes=50_000_000, content_type="text/event-stream"))
        answer = await chat(running.url)
        assert answer.status == 502
        await engine.wait_for(lambda e: e.calls(CHAT)[0].outcome not in ("running", "answered"))


async def test_an_error_inside_a_whole_200_is_an_error(start_gateway: StartGateway) -> None:
    """B7. An engine's own words, which may hold a prompt, are not passed on."""
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(Behaviour(body={"error": {"message": "canary", "type": "InternalServerError", "code": 500}}))
        answer = await chat(running.url)
        assert answer.status >= 500
        assert "canary" not in error_of(answer)["message"]


async def test_a_whole_answer_that_is_no_utf_8_is_made_readable(start_gateway: StartGateway) -> None:
    """B1. It would crash the official clients' decoders."""
    broken = ANSWER.encode().replace(b"\\u00e9", b"\xff\xc3(", 1)
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(Behaviour(body=broken, content_type="application/json"))
        answer = await chat(running.url)
        text = json.loads(answer.body.decode())["choices"][0]["message"]["content"]
        assert (answer.status, text[:3]) == (200, "\ufffd\ufffd(")


@pytest.mark.parametrize("where", ["id", "model", "usage", "finish_reason"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_gateway_reads_itself_may_be_no_utf_8(
    where: str, stream: bool, start_gateway: StartGateway
) -> None:
    """B7. It raised in the middle of the connection, and the caller waited for ever."""
    said = (
        b'{"%s":"\xff","choices":[{"index":0,"text":"a","delta":{"content":"a"},"finish_reason":"\xff"}]'
        % where.encode()
    )
    said += b',"usage":{"\xff":1}}'
    whole = Behaviour(body=said, content_type="application/json")
    events = b"data: " + said + b"\n\n" + EVENT
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        engine.script(Behaviour(body=events, content_type="text/event-stream") if stream else whole)
        answer = await asyncio.wait_for(chat(running.url, stream=stream), 30)
        assert "\ufffd" in answer.body.decode()
        assert answer.status == 200


async def test_an_engine_whose_models_are_no_utf_8_is_not_ready_and_may_be_later(start_gateway: StartGateway) -> None:
    """B7. The watch over it goes on."""
    async with FakeEngine() as engine:
        engine.on("/v1/models", Behaviour(body=b'{"data":[{"id":"\xff"}]}', content_type="application/json"))
        async with start_gateway(engine.url, ready=False, health_interval_s=0.05) as running:
            await engine.wait_for(lambda e: len(e.calls("/v1/models")) > 1)
            assert not running.gateway.replicas.ready
            engine.on("/v1/models", None)
            while not running.gateway.replicas.ready:
                await asyncio.sleep(0.01)
            assert (await chat(running.url)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_usage_is_counted_by_estimate_and_flagged(
    stream: bool, start_gateway: StartGateway, tmp_path: Any
) -> None:
    """B8. So that an engine's silence is no way around a budget."""
    flags = {"database_url": f"sqlite:///{tmp_path}/f.db", "admin_keys": ("sk-admin",), "usage_flush_s": 0.1}
    async with FakeEngine(tokens=6) as engine, gateway_of(engine, start_gateway, **flags) as running:
        engine.script(Behaviour(usage=False) if stream else Behaviour(body=ANSWER, content_type="application/json"))
        expected = 6 + 2 if stream else 100 // BYTES_PER_TOKEN  # the events that begin and end a stream, too
        assert (await chat(running.url, stream=stream)).status == 200
        while not (usage := await counted(running)):
            await asyncio.sleep(0.05)
        assert [(one["completion_tokens"], one["estimated_tokens"]) for one in usage] == [(expected, expected)]


async def counted(running: Running) -> list[dict[str, Any]]:
    answer = await fetch(running.url, "GET", "/admin/v1/usage", authorization="Bearer sk-admin")
    usage: list[dict[str, Any]] = answer.json()["usage"]
    return usage


async def test_many_events_with_usage_in_one_block_hold_nobody_up(start_gateway: StartGateway) -> None:
    """B7. A block of 256 KB took seconds."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    first = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    async with FakeEngine() as engine, gateway_of(engine, start_gateway) as running:
        body = first + usage * 10_000 + EVENT
        engine.script(Behaviour(body=body, content_type="text/event-stream", framing="length"))
        async with watched_loop() as lag:
            answer = await fetch(running.url, "POST", CHAT, chat_body(stream=True), **AUTH)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert lag.worst_s < 0.1
