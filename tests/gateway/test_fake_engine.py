"""The harness proves itself: what other gateway tests believe of the fake engine and the raw client is shown here."""

import asyncio
import itertools
import json
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault, header_bomb, huge_event, invalid_utf8
from tests.gateway.framing_cases import (
    ASKED,
    ASKED_GET,
    CASES,
    Case,
    conversations,
    mutated,
    pieces,
    read_with_h11,
    read_with_httptools,
)
from tests.gateway.raw_client import Event, connect, exchange, fetch, parse_events, text_of, token_numbers

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "one two three"}]}
STREAM = HELLO | {"stream": True}


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as engine:
        yield engine
        assert engine.violations == []


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="sk-x", max_retries=0) as client:
        yield client


class TestOfficialClients:
    async def test_chat_whole(self, client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
        answer = await client.chat.completions.create(**HELLO, max_tokens=4)
        assert answer.choices[0].message.content == " t0 t1 t2 t3"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)
        assert engine.requests[0].body["max_tokens"] == 4
        assert engine.requests[0].headers["authorization"] == "Bearer sk-x"
        await engine.wait_for(lambda e: e.requests[0].outcome == "finished")

    async def test_chat_stream_with_usage_on_the_last_chunk(self, client: openai.AsyncOpenAI) -> None:
        options = {"include_usage": True}
        stream = await client.chat.completions.create(**STREAM, stream_options=options, n=2)
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 16
        assert all(chunk.usage is None for chunk in chunks[:-1])
        finishes = [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason]
        assert finishes == ["length", "length"] or finishes == ["stop", "stop"]

    async def test_usage_on_every_chunk(self, client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
        engine.force_usage = True
        chunks = [chunk async for chunk in await client.chat.completions.create(**STREAM)]
        assert [chunk.usage.completion_tokens for chunk in chunks] == [0, *range(1, 9), 8, 8]

    async def test_completions(self, client: openai.AsyncOpenAI) -> None:
        whole = await client.completions.create(model="fake-model", prompt="a b", max_tokens=3)
        assert whole.choices[0].text == " t0 t1 t2"
        stream = await client.completions.create(model="fake-model", prompt="a b", stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
        assert token_numbers(text) == list(range(8))

    async def test_embeddings(self, client: openai.AsyncOpenAI) -> None:
        answer = await client.embeddings.create(model="fake-model", input=["a", "b c"])
        assert [item.embedding for item in answer.data] == [[0.0, 0.5, -0.25], [1.0, 0.5, -0.25]]
        assert answer.usage.prompt_tokens == 3

    async def test_responses(self, client: openai.AsyncOpenAI) -> None:
        whole = await client.responses.create(model="fake-model", input="a b")
        assert token_numbers(whole.output_text) == list(range(8))
        again = await client.responses.retrieve(whole.id)
        assert again.output_text == whole.output_text
        with pytest.raises(openai.BadRequestError):
            await client.responses.cancel(whole.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_none")
        stream = await client.responses.create(model="fake-model", input="a b", stream=True)
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert events[-1].response.usage.output_tokens == 8

    async def test_messages(self, engine: FakeEngine) -> None:
        ask: dict[str, Any] = {"model": "fake-model", "messages": HELLO["messages"], "max_tokens": 5}
        async with anthropic.AsyncAnthropic(base_url=engine.url, api_key="sk-x", max_retries=0) as client:
            whole = await client.messages.create(**ask)
            assert token_numbers(whole.content[0].text) == list(range(5))
            assert whole.stop_reason == "max_tokens"
            async with client.messages.stream(**ask) as stream:
                assert token_numbers("".join([text async for text in stream.text_stream])) == list(range(5))
                final = await stream.get_final_message()
            assert (final.usage.input_tokens, final.usage.output_tokens) == (3, 5)
            counted = await client.messages.count_tokens(model="fake-model", messages=HELLO["messages"])
            assert counted.input_tokens == 3
            engine.script(Behaviour(error_after=2))
            async with client.messages.stream(**ask) as stream:
                with pytest.raises(anthropic.APIStatusError):
                    await stream.get_final_message()

    async def test_models_and_unknown_models(self, client: openai.AsyncOpenAI) -> None:
        models = await client.models.list()
        assert [model.id for model in models.data] == ["fake-model"]
        with pytest.raises(openai.NotFoundError, match="`other` does not exist"):
            await client.chat.completions.create(**HELLO | {"model": "other"})

    async def test_scripted_statuses_apply_once_each(self, client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
        engine.script(Behaviour(status=503), Behaviour(status=400, body={"error": "Unauthorized"}))
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**HELLO)
        assert caught.value.type == "ServiceUnavailableError"
        await client.models.list()  # monitoring does not use the script up
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**HELLO)
        await client.chat.completions.create(**HELLO)

    async def test_error_inside_a_stream(self, client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
        engine.script(Behaviour(error_after=3))
        said: list[str | None] = []
        with pytest.raises(openai.APIError, match="Internal server error"):
            await _collect(await client.chat.completions.create(**STREAM), said)
        assert said == ["", " t0", " t1", " t2"]

    async def test_a_client_that_goes_away_aborts(self, client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
        engine.script(Behaviour(faults=[Fault("token", "hang", after=2)]))
        stream = await client.chat.completions.create(**STREAM)
        await engine.wait_for(lambda e: e.running == 1 and e.requests[0].tokens_sent == 2)
        await stream.close()
        await engine.wait_for(lambda e: e.running == 0)
        assert engine.requests[0].outcome == "aborted"


class TestFaults:
    """Each as seen over a bare socket."""

    async def test_cuts_within_a_stream(self, engine: FakeEngine) -> None:
        seen = {}
        cuts: list[tuple[Any, Any]] = list(itertools.product(("close", "reset"), ("token", "mid_event", "mid_chunk")))
        for how, where in [*cuts, ("finish", "token"), ("finish", "mid_event")]:
            engine.script(Behaviour(faults=[Fault(where, how, after=3)]))
            answer = await fetch(engine.url, "POST", CHAT, STREAM)
            assert answer.status == 200
            assert token_numbers(text_of(answer.events)) == [0, 1, 2]
            seen[how, where] = (answer.ended, answer.events[-1].whole)
        assert seen == {
            ("close", "token"): ("eof", True),
            ("close", "mid_event"): ("eof", False),
            ("close", "mid_chunk"): ("eof", False),
            ("reset", "token"): ("reset", True),
            ("reset", "mid_event"): ("reset", False),
            ("reset", "mid_chunk"): ("reset", False),
            ("finish", "token"): ("complete", True),
            ("finish", "mid_event"): ("complete", False),
        }
        assert {record.outcome for record in engine.requests} == {"cut"}

    async def test_cuts_around_the_head(self, engine: FakeEngine) -> None:
        for where, how, ended in [
            ("head", "close", "eof"),
            ("head", "reset", "reset"),
            ("mid_head", "close", "eof"),
            ("mid_head", "reset", "reset"),
        ]:
            engine.script(Behaviour(faults=[Fault(where, how)]))
            answer = await fetch(engine.url, "POST", CHAT, HELLO)
            assert (answer.status, answer.ended) == (0, ended)

    async def test_a_cut_before_the_last_chunk(self, engine: FakeEngine) -> None:
        engine.script(Behaviour(faults=[Fault("end")]))
        answer = await fetch(engine.url, "POST", CHAT, STREAM)
        assert answer.events[-1].data == "[DONE]"
        assert answer.ended == "eof"

    async def test_whole_answers_are_cut_too(self, engine: FakeEngine) -> None:
        engine.script(Behaviour(faults=[Fault("mid_event")]), Behaviour(faults=[Fault("token", after=2)]))
        half = await fetch(engine.url, "POST", CHAT, HELLO)
        assert (half.status, half.ended) == (200, "eof")
        assert 0 < len(half.body) < int(half.header("content-length") or 0)
        none = await fetch(engine.url, "POST", CHAT, HELLO)
        assert (none.status, none.ended) == (0, "eof")
        assert [record.tokens_sent for record in engine.requests] == [8, 2]

    async def test_half_an_event_then_a_pause(self, engine: FakeEngine) -> None:
        gate = asyncio.Event()
        engine.script(Behaviour(faults=[Fault("mid_event", gate, after=1)]))
        async with connect(engine.url) as raw:
            await raw.request("POST", CHAT, STREAM)
            answer = await raw.read_head()
            blocks = raw.blocks(answer)
            seen = b""
            while not seen.endswith(b'{"id"') and seen.count(b"data: ") < 3:
                seen += await anext(blocks)
            assert await raw.is_silent()
            assert not parse_events(seen)[-1].whole
            gate.set()
            async for block in blocks:
                seen += block
        assert token_numbers(text_of(parse_events(seen))) == list(range(8))
        assert answer.ended == "complete"

    async def test_a_gate_holds_at_a_token(self, engine: FakeEngine) -> None:
        gate = asyncio.Event()
        engine.script(Behaviour(faults=[Fault("token", gate, after=4)]))
        async with connect(engine.url) as raw:
            await raw.request("POST", CHAT, STREAM)
            await engine.wait_for(lambda e: e.requests and e.requests[0].tokens_sent == 4)
            gate.set()
            answer = await raw.read_response()
        assert token_numbers(text_of(answer.events)) == list(range(8))

    async def test_hanging_before_the_head(self, engine: FakeEngine) -> None:
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        async with connect(engine.url) as raw:
            await raw.request("POST", CHAT, STREAM)
            await engine.wait_for(lambda e: e.running == 1)
            assert await raw.is_silent()
            raw.reset()
            await engine.wait_for(lambda e: e.running == 0)
        assert engine.requests[0].outcome == "aborted"

    async def test_streams_that_lack_something(self, engine: FakeEngine) -> None:
        ask = STREAM | {"stream_options": {"include_usage": True}}
        engine.script(Behaviour(done=False), Behaviour(usage=False), Behaviour(finish_reason="abort"))
        without_done = await fetch(engine.url, "POST", CHAT, ask)
        assert without_done.events[-1].json()["usage"]["completion_tokens"] == 8
        without_usage = await fetch(engine.url, "POST", CHAT, ask)
        assert not any('"usage"' in event.data for event in without_usage.events)
        aborted = await fetch(engine.url, "POST", CHAT, ask)
        assert aborted.events[-3].json()["choices"][0]["finish_reason"] == "abort"
        assert aborted.events[-1].data == "[DONE]"
        assert {without_done.ended, without_usage.ended, aborted.ended} == {"complete"}

    async def test_garbage_inside_a_stream(self, engine: FakeEngine) -> None:
        engine.script(invalid_utf8(), huge_event(100_000), Behaviour(insert={0: b": ping\n\n"}))
        broken = await fetch(engine.url, "POST", CHAT, STREAM)
        with pytest.raises(UnicodeDecodeError):
            parse_events(broken.body)
        huge = await fetch(engine.url, "POST", CHAT, STREAM)
        assert max(len(event.data) for event in huge.events) > 100_000
        pinged = await fetch(engine.url, "POST", CHAT, STREAM)
        assert pinged.events[1] == Event(comments=("ping",))

    async def test_a_crash_in_the_responses_stream(self, engine: FakeEngine) -> None:
        engine.script(Behaviour(error_after=2))
        ask = {"model": "fake-model", "input": "a", "stream": True}
        answer = await fetch(engine.url, "POST", "/v1/responses", ask)
        assert answer.ended == "eof"
        assert answer.events[-1].event == "response.output_text.delta"

    async def test_other_bodies_and_heads(self, engine: FakeEngine) -> None:
        engine.script(
            Behaviour(body="<html>oops</html>"),
            Behaviour(body=b"\x00\xff", content_type="application/json"),
            Behaviour(content_type="text/plain"),
            Behaviour(interim=[b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"] * 2),
            header_bomb(100_000),
            Behaviour(raw=b"nonsense\r\n\r\n"),
            Behaviour(trailers=[b"x-trailer: 1"]),
        )
        html = await fetch(engine.url, "POST", CHAT, HELLO)
        assert (html.header("content-type"), html.body) == ("text/html; charset=utf-8", b"<html>oops</html>")
        assert (await fetch(engine.url, "POST", CHAT, HELLO)).body == b"\x00\xff"
        assert (await fetch(engine.url, "POST", CHAT, STREAM)).header("content-type") == "text/plain"
        assert (await fetch(engine.url, "POST", CHAT, HELLO)).interim == [103, 103]
        assert len((await fetch(engine.url, "POST", CHAT, HELLO)).header("x-bomb-0") or "") == 100_000
        data, ended = await exchange(engine.url, _chat_request())
        assert (data, ended) == (b"nonsense\r\n\r\n", "eof")
        assert (await fetch(engine.url, "POST", CHAT, STREAM)).ended == "complete"

    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_giant_bodies(self, engine: FakeEngine, framing: Any) -> None:
        engine.script(Behaviour(body_bytes=3_000_000, framing=framing))
        answer = await fetch(engine.url, "POST", CHAT, HELLO)
        assert (len(answer.body), answer.ended) == (3_000_000, "complete")
        assert (answer.header("content-length") is None) == (framing != "length")

    async def test_every_byte_in_its_own_write(self, engine: FakeEngine) -> None:
        engine.script(Behaviour(piece_bytes=1, tokens=2))
        async with connect(engine.url) as raw:
            await raw.request("POST", CHAT, STREAM)
            pieces = [await raw.read_some() for _ in range(50)]
        assert sum(len(piece) == 1 for piece in pieces) > 40

    async def test_a_client_that_does_not_read_holds_the_engine_up(self) -> None:
        async with FakeEngine(send_buffer_bytes=8192) as engine:
            engine.script(Behaviour(tokens=100_000))
            async with connect(engine.url, receive_buffer_bytes=4096) as raw:
                await raw.request("POST", CHAT, STREAM)
                await engine.wait_for(lambda e: e.requests and e.requests[0].tokens_sent > 10)
                await asyncio.sleep(0.1)
                sent = engine.requests[0].tokens_sent
                await asyncio.sleep(0.1)
                assert engine.requests[0].tokens_sent == sent < 1000
            await engine.wait_for(lambda e: e.running == 0)
            assert engine.requests[0].outcome == "aborted"


class TestConnections:
    async def test_requests_share_a_connection_and_may_be_pipelined(self, engine: FakeEngine) -> None:
        async with connect(engine.url) as raw:
            await raw.send(_chat_request() + _chat_request(b'{"prompt":"x"}', b"/v1/completions"))
            assert (await raw.read_response()).json()["object"] == "chat.completion"
            assert (await raw.read_response()).json()["object"] == "text_completion"
        assert [record.connection for record in engine.requests] == [1, 1]

    async def test_what_becomes_of_the_connection(self, engine: FakeEngine) -> None:
        for then, ended in [("say_close", "eof"), ("drop", "eof"), ("drop_on_next", "reset")]:
            engine.script(Behaviour(then=then))
            async with connect(engine.url) as raw:
                await raw.send(_chat_request())
                answer = await raw.read_response()
                assert answer.ended == "complete"
                assert answer.header("connection") == ("close" if then == "say_close" else None)
                if then == "drop_on_next":
                    assert await raw.is_silent()
                    await raw.send(_chat_request())
                assert await raw.read_until_end() == (b"", ended)
        assert len(engine.requests) == 3

    async def test_idle_connections_are_closed_on_command(self, engine: FakeEngine) -> None:
        async with connect(engine.url) as raw:
            await raw.send(_chat_request())
            await raw.read_response()
            engine.drop_idle()
            assert await raw.read_until_end() == (b"", "eof")

    async def test_an_engine_that_accepts_but_does_not_serve(self, engine: FakeEngine) -> None:
        engine.on_connect = "ignore"
        async with connect(engine.url) as raw:
            await raw.send(_chat_request())
            assert await raw.is_silent()
        engine.on_connect = "reset"
        async with connect(engine.url) as raw:
            assert await raw.read_until_end() == (b"", "reset")

    async def test_stop_and_start_at_the_same_address(self, engine: FakeEngine) -> None:
        url = engine.url
        engine.script(Behaviour(faults=[Fault("token", "hang", after=1)]))
        async with connect(url) as raw:
            await raw.request("POST", CHAT, STREAM)
            await engine.wait_for(lambda e: e.running == 1)
            await engine.stop()
            assert (await raw.read_response()).ended in ("eof", "reset")
        assert engine.requests[0].outcome == "stopped"
        with pytest.raises(ConnectionRefusedError):
            await fetch(url, "GET", "/health")
        await engine.start()
        assert (await fetch(url, "GET", "/health")).status == 200

    async def test_over_a_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with FakeEngine(uds=os.path.join(folder, "engine.sock")) as engine:
                answer = await fetch(engine.url, "POST", CHAT, STREAM)
        assert token_numbers(text_of(answer.events)) == list(range(8))

    async def test_slots_bound_what_runs(self) -> None:
        async with FakeEngine(slots=2, token_delay_s=0.005) as engine:
            asks = [asyncio.create_task(fetch(engine.url, "POST", CHAT, HELLO)) for _ in range(5)]
            await engine.wait_for(lambda e: (e.running, e.waiting) == (2, 3))
            metrics = (await fetch(engine.url, "GET", "/metrics")).body.decode()
            assert 'vllm:num_requests_running{engine="0",model_name="fake-model"} 2.0' in metrics
            assert 'vllm:num_requests_waiting{engine="0",model_name="fake-model"} 3.0' in metrics
            await asyncio.gather(*asks)
            metrics = (await fetch(engine.url, "GET", "/metrics")).body.decode()
            assert 'vllm:iteration_tokens_total_sum{engine="0",model_name="fake-model"} 40.0' in metrics

    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"GET /health HTTP/1.0\r\nhost: x\r\n\r\n",
            b"GET /health HTTP/1.1\r\n\r\n",
            b"GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
            b"GET /health HTTP/1.1\r\nhost: x\r\nbad name: y\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        ],
    )
    async def test_what_a_gateway_must_not_send_is_noted(self, request_bytes: bytes) -> None:
        async with FakeEngine() as engine:
            assert await exchange(engine.url, request_bytes) == (b"", "eof")
            assert len(engine.violations) == 1
            assert engine.requests == []

    async def test_chunked_requests(self, engine: FakeEngine) -> None:
        body = json.dumps(HELLO).encode()
        head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % CHAT.encode()
        chunks = b"%x\r\n%b\r\n5\r\n     \r\n0\r\n\r\n" % (len(body), body)
        async with connect(engine.url) as raw:
            await raw.send_pieces(head + b"transfer-encoding: chunked\r\n\r\n" + chunks, size=7)
            assert (await raw.read_response()).status == 200
        assert engine.requests[0].body == HELLO


class TestOtherPaths:
    async def test_tokenize_and_detokenize(self, engine: FakeEngine) -> None:
        tokenized = await fetch(engine.url, "POST", "/tokenize", {"prompt": "a b c"})
        assert (tokenized.json()["count"], tokenized.json()["max_model_len"]) == (3, 4096)
        text = await fetch(engine.url, "POST", "/detokenize", {"tokens": [1, 2]})
        assert text.json() == {"prompt": " t1 t2"}

    async def test_standing_behaviours(self, engine: FakeEngine) -> None:
        engine.on("/health", Behaviour(status=503))
        assert [(await fetch(engine.url, "GET", "/health")).status for _ in range(2)] == [503, 503]
        engine.on("/health", None)
        assert (await fetch(engine.url, "GET", "/health")).status == 200
        engine.default = lambda record: Behaviour(tokens=record.body.get("seed", 1))
        answer = await fetch(engine.url, "POST", CHAT, HELLO | {"seed": 5})
        assert answer.json()["usage"]["completion_tokens"] == 5

    async def test_unknown_paths_methods_and_bodies(self, engine: FakeEngine) -> None:
        assert (await fetch(engine.url, "GET", "/nothing")).status == 404
        assert (await fetch(engine.url, "DELETE", CHAT)).status == 405
        assert (await fetch(engine.url, "POST", CHAT, b"{")).status == 400
        assert (await fetch(engine.url, "POST", CHAT, HELLO, content_type="text/plain")).status == 400


class TestFramingCorpus:
    """The reference readings agree with the corpus where it is not stricter than they are, and with themselves."""

    def test_names_tell_cases_apart(self) -> None:
        assert len({case.name for case in CASES}) == len(CASES) > 200

    @pytest.mark.parametrize("case", [case for case in CASES if case.verdict in ("ok", "cut")], ids=lambda c: c.name)
    @pytest.mark.parametrize("read", [read_with_h11, read_with_httptools])
    def test_what_is_right_is_read_right(self, case: Case, read: Any) -> None:
        reading = read(case.raw)
        assert case.allows(reading.requests, reading.error is not None), reading
        assert reading.closed == case.closes

    def test_a_right_server_may_do_what_the_stricter_reference_does(self) -> None:
        """Whatever is to be refused, one of the references refuses or the policy of ROBUSTNESS.md (C1, C4) does."""
        lax = set()
        for case in CASES:
            readings = [read(case.raw) for read in (read_with_h11, read_with_httptools)]
            if not any(case.allows(reading.requests, reading.error is not None) for reading in readings):
                lax.add(case.name.split("-")[0])
        assert lax <= {"cl", "te", "version", "target", "method", "host", "headers", "header", "content", "upgrade"}

    @pytest.mark.parametrize("read", [read_with_h11, read_with_httptools])
    def test_byte_by_byte_is_read_alike(self, read: Any) -> None:
        for case in CASES:
            if len(case.raw) < 4096 and not case.name.startswith("upgrade"):  # uvicorn loses what follows an upgrade
                whole, single = read(case.raw), read([bytes([byte]) for byte in case.raw])
                assert (single.heard, single.error is None) == (whole.heard, whole.error is None), case.name

    @given(st.data())
    @settings(max_examples=100, deadline=None)
    def test_generated_conversations_are_read_right_however_they_arrive(self, data: st.DataObject) -> None:
        raw, asked = data.draw(conversations())
        for read in (read_with_h11, read_with_httptools):
            reading = read(data.draw(pieces(raw)))
            assert (reading.requests, reading.error, reading.closed, reading.partial) == (asked, None, False, False)

    @given(mutated())
    @settings(max_examples=200, deadline=None)
    def test_damaged_bytes_never_break_a_reference(self, raw: bytes) -> None:
        for read in (read_with_h11, read_with_httptools):
            assert read(raw) is not None

    def test_verdicts(self) -> None:
        either = Case("x", b"", "", "either", (ASKED, ASKED_GET))
        assert either.allows([ASKED, ASKED_GET], rejected=False)
        assert either.allows([ASKED], rejected=True)
        assert not either.allows([ASKED], rejected=False)
        assert not either.allows([ASKED_GET], rejected=True)
        assert not Case("x", b"", "", "reject").allows([ASKED], rejected=True)
        assert not Case("x", b"", "", "reject").allows([], rejected=False)


class TestEventParser:
    def test_reads_what_the_standard_says(self) -> None:
        stream = b": hi\n\ndata: a\ndata: b\n\nevent: e\r\nid: 7\r\ndata:c\r\n\r\ndata: \xe2\x80\xa8\n\ndata: cu"
        assert parse_events(stream) == [
            Event(comments=("hi",)),
            Event("a\nb"),
            Event("c", "e", "7"),
            Event("\u2028"),
            Event("cu", whole=False),
        ]


def _chat_request(body: bytes = json.dumps(HELLO).encode(), target: bytes = CHAT.encode()) -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (target, len(body)) + body


async def _collect(stream: openai.AsyncStream[Any], said: list[str | None]) -> None:
    async for chunk in stream:
        said.append(chunk.choices[0].delta.content)
