"""What becomes of an engine's answer, well or ill, on its way to the client."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault, header_bomb, huge_event, invalid_utf8
from tests.gateway.raw_client import connect, fetch, parse_events, text_of, token_numbers


async def test_a_whole_answer_arrives_as_the_engine_gave_it(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answer = await chat(running.url, max_tokens=3)
        assert answer.status == 200
        assert answer.json()["usage"]["completion_tokens"] == 3
        assert answer.header("x-request-id")
        record = engine.calls(CHAT)[0]
        assert record.body == chat_body(max_tokens=3)


async def test_the_engine_gets_our_id_and_none_of_the_callers_headers(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        extra = {"x-request-id": "mine-1", "x-vllm-priority": "-5", "cookie": "a=b", "x-forwarded-for": "6.6.6.6"}
        answer = await fetch(running.url, "POST", CHAT, chat_body(), **AUTH, **extra)
        assert answer.header("x-request-id") == "mine-1"
        sent = engine.calls(CHAT)[0].headers
        assert sent["x-request-id"] != "mine-1"
        assert set(sent) == {"host", "content-type", "content-length", "x-request-id"}


@pytest.mark.parametrize("piece_bytes", [None, 1, 7])
async def test_a_stream_arrives_event_by_event_however_it_is_cut(
    piece_bytes: int | None, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(tokens=6, piece_bytes=piece_bytes))
        answer = await chat(running.url, stream=True)
        events = answer.events
        assert token_numbers(text_of(events)) == list(range(6))
        assert events[-1].data == "[DONE]"
        assert answer.header("x-accel-buffering") == "no"


async def test_usage_is_asked_for_and_kept_from_a_caller_who_did_not_ask(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        plain = await chat(running.url, stream=True, max_tokens=4)
        asked = await chat(running.url, stream=True, max_tokens=4, stream_options={"include_usage": True})
        assert not any("usage" in (event.data or "") for event in plain.events)
        assert json.loads(asked.events[-2].data or "")["usage"]["completion_tokens"] == 4
        assert [call.body["stream_options"] for call in engine.calls(CHAT)] == [{"include_usage": True}] * 2
        labels = '{endpoint="chat_completions",model="fake-model"}'
        assert running.figures()[f"forebay_completion_tokens_total{labels}"] == 8


async def test_the_callers_own_stream_options_are_kept(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        await chat(running.url, stream=True, stream_options={"include_usage": False, "continuous_usage_stats": False})
        assert engine.calls(CHAT)[0].body["stream_options"] == {"include_usage": True, "continuous_usage_stats": False}


BREAKS = {
    "closed between events": Behaviour(faults=[Fault("token", "close", after=2)]),
    "reset within an event": Behaviour(faults=[Fault("mid_event", "reset", after=2)]),
    "closed within a chunk": Behaviour(faults=[Fault("mid_chunk", "close", after=2)]),
    "ended properly but early": Behaviour(faults=[Fault("token", "finish", after=2)]),
    "ended properly within an event": Behaviour(faults=[Fault("mid_event", "finish", after=2)]),
    "no [DONE]": Behaviour(done=False),
    "an error event": Behaviour(error_after=2),
    "aborted": Behaviour(tokens=2, finish_reason="abort"),
    "an endless event": huge_event(300_000, after=2),
}


@pytest.mark.parametrize("behaviour", BREAKS.values(), ids=BREAKS.keys())
async def test_a_broken_stream_ends_with_an_error_that_the_official_client_raises(
    behaviour: Behaviour, start_gateway: StartGateway
) -> None:
    async with (
        FakeEngine(token_delay_s=0.02) as engine,
        start_gateway(engine.url, max_event_bytes=65_536) as running,
    ):
        engine.script(behaviour, behaviour)
        raw = await chat(running.url, stream=True, logprobs=True)  # which cannot be resumed
        assert (raw.status, raw.ended) == (200, "complete")
        *_, error, done = raw.events
        assert set(error.json()["error"]) == {"message", "type", "param", "code"}
        assert done.data == "[DONE]"
        assert token_numbers(text_of(raw.events))[:2] == [0, 1]

        client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)
        stream: Any = await client.chat.completions.create(**chat_body(stream=True, logprobs=True))
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        await client.close()


async def test_a_break_before_the_first_event_becomes_a_status(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, takeover_attempts=0) as running:
        engine.script(Behaviour(faults=[Fault("token", "reset")]))
        answer = await chat(running.url, stream=True)
        assert (answer.status, error_of(answer)["code"]) == (503, "engine_unavailable")
        assert answer.header("retry-after") is not None


INVALID = {
    "html": Behaviour(body="<html>no</html>", content_type="text/html"),
    "bad json": Behaviour(body=b'{"choices": [', content_type="application/json"),
    "not http": Behaviour(raw=b"SSH-2.0-OpenSSH_9.2\r\n"),
    "no length": Behaviour(framing="close"),
    "huge header": header_bomb(100_000),
    "many headers": header_bomb(10, 500),
    "interim flood": Behaviour(interim=[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 50),
    "too large": Behaviour(body_bytes=3_000_000),
    "aborted": Behaviour(finish_reason="abort"),
}


@pytest.mark.parametrize("behaviour", INVALID.values(), ids=INVALID.keys())
async def test_an_answer_that_is_none_becomes_502(behaviour: Behaviour, start_gateway: StartGateway) -> None:
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, max_answer_bytes=1_000_000, takeover_attempts=0) as running,
    ):
        engine.script(behaviour)
        answer = await chat(running.url)
        assert answer.status == 502
        assert error_of(answer)["type"] == "server_error"
        assert (await chat(running.url)).status == 200


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, None, 400, "invalid_value"),
        (404, None, 404, "not_found"),
        (422, None, 422, "invalid_value"),
        (501, None, 400, "invalid_value"),
        (500, None, 503, "engine_error"),
        (503, {"error": "Model is scaling"}, 503, "server_is_overloaded"),
        (401, {"error": "Unauthorized"}, 502, "upstream_invalid_response"),
        (418, "<html>", 502, "upstream_invalid_response"),
    ],
)
async def test_the_engines_errors_are_said_again_in_our_form(
    status: int, body: Any, expected: int, code: str, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(status=status, body=body))
        answer = await chat(running.url)
        assert (answer.status, error_of(answer)["code"]) == (expected, code)


async def test_text_that_is_not_utf8_does_not_reach_the_client(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(invalid_utf8())
        answer = await chat(running.url, stream=True)
        answer.body.decode("utf-8")
        assert "�" in text_of(answer.events)


async def test_keep_alive_comments_pass_but_do_not_release_the_200(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, takeover_attempts=0) as running:
        engine.script(
            Behaviour(insert={0: b": ping\n\n"}, faults=[Fault("token", "reset")]),
            Behaviour(insert={2: b": ping\n\n"}),
        )
        assert (await chat(running.url, stream=True)).status == 503
        answer = await chat(running.url, stream=True)
        assert any(event.comments for event in answer.events)


async def test_a_client_that_leaves_ends_the_engines_work_at_once(start_gateway: StartGateway) -> None:
    endless = FakeEngine(token_delay_s=0.01, tokens=100_000, max_model_len=200_000)
    async with endless as engine, start_gateway(engine.url) as running:
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(stream=True, max_tokens=100_000), AUTH)
            await raw.read_head()
            await raw.read_some()
        await engine.wait_for(lambda e: e.running == 0)
        assert engine.calls(CHAT)[0].outcome == "aborted"
        assert running.gateway.pipeline.admission.under_way == 0


async def test_a_client_that_leaves_while_it_waits_ends_the_engines_work(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(), AUTH)
            await engine.wait_for(lambda e: e.running == 1)
        await engine.wait_for(lambda e: e.running == 0)
        assert engine.calls(CHAT)[0].outcome == "aborted"


async def test_a_client_that_leaves_behind_requests_that_wait_ends_the_engines_work(
    start_gateway: StartGateway,
) -> None:
    """Nothing is read while they wait, not even the end."""
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        async with connect(running.url) as raw:
            for _ in range(3):
                await raw.request("POST", CHAT, chat_body(), AUTH)
            await engine.wait_for(lambda e: e.running == 1)
        async with asyncio.timeout(5):
            await engine.wait_for(lambda e: e.running == 0)
        assert [call.outcome for call in engine.calls(CHAT)] == ["aborted"]
        assert running.gateway.pipeline.running == set()


async def test_a_client_that_does_not_read_costs_bounded_memory_and_is_cut_off(start_gateway: StartGateway) -> None:
    event = b'data: {"x":"' + b"y" * 10_000 + b'"}\n\n'
    async with (
        FakeEngine(tokens=20_000, max_model_len=40_000, send_buffer_bytes=65_536) as engine,
        start_gateway(engine.url, write_timeout_s=0.5) as running,
        connect(running.url, receive_buffer_bytes=4096) as raw,
    ):
        engine.script(Behaviour(tokens=20_000, insert=dict.fromkeys(range(20_000), event)))
        await raw.request("POST", CHAT, chat_body(stream=True, max_tokens=20_000), AUTH)
        await engine.wait_for(lambda e: e.tokens_sent > 10)
        await engine.wait_for(lambda e: e.running == 0)
        assert engine.calls(CHAT)[0].tokens_sent < 3000  # of 20,000: what fits in buffers along the way


async def test_a_slow_reader_gets_all_of_it(start_gateway: StartGateway) -> None:
    event = b'data: {"x":"' + b"y" * 2000 + b'"}\n\n'
    async with (
        FakeEngine(tokens=300) as engine,
        start_gateway(engine.url) as running,
        connect(running.url, receive_buffer_bytes=4096) as raw,
    ):
        engine.script(Behaviour(tokens=300, insert=dict.fromkeys(range(300), event)))
        await raw.request("POST", CHAT, chat_body(stream=True, max_tokens=300), AUTH)
        await engine.wait_for(lambda e: e.tokens_sent > 10)
        answer = await raw.read_response("POST")
        assert token_numbers(text_of(answer.events)) == list(range(300))


async def test_an_engine_that_says_nothing_is_given_up(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, first_byte_timeout_s=0.3) as running:
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        answer = await chat(running.url)
        assert (answer.status, error_of(answer)["code"]) == (504, "upstream_timeout")
        await engine.wait_for(lambda e: e.running == 0)


async def test_a_stream_that_stalls_ends_with_an_error(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, stall_timeout_s=0.3, takeover_attempts=0) as running:
        engine.script(Behaviour(faults=[Fault("token", "hang", after=3)]))
        answer = await chat(running.url, stream=True)
        assert json.loads(answer.events[-2].data or "")["error"]["code"] == "upstream_timeout"
        assert token_numbers(text_of(answer.events)) == [0, 1, 2]


async def test_a_connection_closed_while_idle_is_replaced_unnoticed(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(then="drop_on_next"))
        assert (await chat(running.url)).status == 200
        assert (await chat(running.url)).status == 200
        assert (await chat(running.url)).status == 200


async def test_an_engine_that_is_down_is_passed_over(start_gateway: StartGateway) -> None:
    async with FakeEngine() as up, FakeEngine() as down:
        async with start_gateway(up.url, down.url, health_interval_s=3600) as running:
            while sum(replica.ready for replica in running.gateway.replicas) < 2:
                await asyncio.sleep(0.005)
            await down.stop()
            assert [(await chat(running.url)).status for _ in range(6)] == [200] * 6
            assert len(up.calls(CHAT)) == 6


async def test_no_engine_at_all_is_503_with_retry_after(start_gateway: StartGateway) -> None:
    async with start_gateway("http://127.0.0.1:9", ready=False) as running:
        answer = await chat(running.url)
        assert (answer.status, error_of(answer)["code"]) == (503, "engine_unavailable")
        assert 1 <= int(answer.header("retry-after") or 0) <= 60
        ready = await fetch(running.url, "GET", "/health/ready")
        assert ready.status == 503
        assert (await fetch(running.url, "GET", "/health")).status == 200


async def test_too_many_at_once_are_refused_and_those_under_way_are_not(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, max_active_requests=2) as running:
        engine.script(*[Behaviour(faults=[Fault("head", gate)])] * 2)
        first = [asyncio.create_task(chat(running.url)) for _ in range(2)]
        await engine.wait_for(lambda e: e.running == 2)
        refused = await chat(running.url)
        assert (refused.status, error_of(refused)["code"]) == (503, "server_is_overloaded")
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*first)] == [200, 200]
        assert (await chat(running.url)).status == 200


async def test_an_alias_is_another_name_for_a_model(start_gateway: StartGateway) -> None:
    aliases = {"gpt-3.5-turbo": "fake-model", "text-davinci-003": "*"}
    async with FakeEngine() as engine, start_gateway(engine.url, model_aliases=aliases) as running:
        for alias in aliases:
            assert (await chat(running.url, model=alias)).status == 200
            assert engine.calls(CHAT)[-1].body["model"] == "fake-model"
        models = (await fetch(running.url, "GET", "/v1/models", **AUTH)).json()["data"]
        assert [model["id"] for model in models] == ["fake-model", *aliases], models
        one = await fetch(running.url, "GET", "/v1/models/gpt-3.5-turbo", **AUTH)
        assert one.json()["root"] == "fake-model"


async def test_every_relayed_endpoint_reaches_the_engine(start_gateway: StartGateway) -> None:
    bodies: dict[str, Any] = {
        "/v1/completions": {"model": "fake-model", "prompt": "x"},
        "/v1/embeddings": {"model": "fake-model", "input": "x"},
        "/v1/responses": {"model": "fake-model", "input": "x"},
        "/v1/messages": {"model": "fake-model", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]},
        "/v1/messages/count_tokens": {"model": "fake-model", "messages": [{"role": "user", "content": "x"}]},
        "/tokenize": {"prompt": "x"},
        "/detokenize": {"tokens": [1]},
    }
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for path, body in bodies.items():
            answer = await fetch(running.url, "POST", path, body, **AUTH)
            assert answer.status == 200, (path, answer.body)
            assert len(engine.calls(path)) == 1


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_other_dialects_stream_whole_and_say_errors_their_own_way(path: str, start_gateway: StartGateway) -> None:
    body = {"model": "fake-model", "stream": True, "max_tokens": 4, "max_output_tokens": 4}
    body |= {"input": "x"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "x"}]}
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        whole = await fetch(running.url, "POST", path, body, **AUTH)
        assert token_numbers(text_of(whole.events)) == [0, 1, 2, 3]
        assert not any(event.event == "error" for event in whole.events)
        engine.script(Behaviour(faults=[Fault("token", "reset", after=2)]))
        broken = await fetch(running.url, "POST", path, body, **AUTH)
        assert broken.events[-1].event == "error"
        assert broken.events[-1].json()["type"] == "error"
        name = "responses" if path == "/v1/responses" else "messages"
        figures = running.figures()
        assert figures[f'forebay_completion_tokens_total{{endpoint="{name}",model="fake-model"}}'] >= 4


async def test_a_stored_response_is_its_tenants_alone(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=("sk-test", "sk-other")) as running:
        made = await fetch(running.url, "POST", "/v1/responses", {"model": "fake-model", "input": "x"}, **AUTH)
        path = f"/v1/responses/{made.json()['id']}"
        assert (await fetch(running.url, "GET", path, **AUTH)).status == 200
        other = {"authorization": "Bearer sk-other"}
        assert (await fetch(running.url, "GET", path, **other)).status == 404
        assert (await fetch(running.url, "POST", f"{path}/cancel", {}, **other)).status == 404
        follow_up = {"model": "fake-model", "input": "y", "previous_response_id": made.json()["id"]}
        assert (await fetch(running.url, "POST", "/v1/responses", follow_up, **other)).status == 404
        assert (await fetch(running.url, "POST", "/v1/responses", follow_up, **AUTH)).status == 200
        assert len(engine.calls(path)) == 1


async def test_an_engine_over_a_unix_socket_serves_too(start_gateway: StartGateway, tmp_path: Any) -> None:
    async with FakeEngine(uds=str(tmp_path / "e.sock")) as engine, start_gateway(engine.url) as running:
        assert parse_events((await chat(running.url, stream=True)).body)[-1].data == "[DONE]"
