"""Requests as spans at a real OTLP receiver: what they say, whose they are, and that they never hold a request up."""

import asyncio
import subprocess
import sys

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.otlp_receiver import RECEIVERS, Receiver, Span, grpc_receiver, http_receiver
from tests.gateway.raw_client import connect, fetch
from tests.waiting import all_ready

TRACE, PARENT = "a1" * 16, "b2" * 8
SECRET = "the words of the prompt"
SERVER, CLIENT = 2, 3


def told(sampled: bool) -> dict[str, str]:
    """What a caller says that has a trace of its own."""
    return {**AUTH, "traceparent": f"00-{TRACE}-{PARENT}-0{int(sampled)}", "tracestate": "vendor=one,other=2"}


def one_trace(receiver: Receiver) -> dict[str, Span]:
    (trace_id,) = {span.trace_id for span in receiver.spans}
    return receiver.trace(trace_id)


@pytest.mark.parametrize("protocol", RECEIVERS)
async def test_a_streamed_chat_shows_its_wait_its_attempt_and_its_first_token(
    protocol: str, start_gateway: StartGateway
) -> None:
    gate = asyncio.Event()
    with RECEIVERS[protocol]() as receiver:
        tracing = {"otlp_endpoint": receiver.url, "otlp_protocol": protocol}
        async with FakeEngine(token_delay_s=0.002) as engine:
            async with start_gateway(engine.url, engine_concurrency=1, **tracing) as running:
                engine.script(Behaviour(faults=[Fault("head", gate)]))
                unsampled = {**AUTH, "traceparent": f"00-{'c' * 32}-{PARENT}-00"}
                first = asyncio.create_task(fetch(running.url, "POST", CHAT, chat_body(), **unsampled))
                await engine.wait_for(lambda e: e.running == 1)
                body = chat_body(
                    stream=True,
                    max_tokens=5,
                    stream_options={"include_usage": True},
                    messages=[{"role": "user", "content": SECRET}],
                )
                asking = asyncio.create_task(fetch(running.url, "POST", CHAT, body, **AUTH))
                while running.gateway.pipeline.admission.queued != 1:
                    await asyncio.sleep(0.001)
                gate.set()
                assert (await first).status == (await asking).status == 200
        spans = one_trace(receiver)
        request, wait, attempt = spans["chat fake-model"], spans["wait"], spans["attempt 1"]
        assert set(spans) == {"chat fake-model", "wait", "attempt 1"}
        assert (request.kind, attempt.kind, request.parent) == (SERVER, CLIENT, "")
        assert wait.parent == attempt.parent == request.span_id
        first_token = request.events["first token"]
        assert attempt.events == {"first token": first_token}
        times = [request.start, wait.start, wait.end, attempt.start, first_token, attempt.end, request.end]
        assert times == sorted(times)
        said = request.attributes
        assert said["gen_ai.operation.name"] == "chat"
        assert said["gen_ai.provider.name"] == "vllm"
        assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "fake-model"
        assert said["gen_ai.request.stream"] is True
        assert (said["gen_ai.request.max_tokens"], said["gen_ai.usage.output_tokens"]) == (5, 5)
        assert said["gen_ai.usage.input_tokens"] > 0
        assert said["gen_ai.response.time_to_first_chunk"] == pytest.approx(first_token - request.start, abs=1e-5)
        assert (said["http.request.method"], said["http.route"], said["http.response.status_code"]) == (
            *("POST", CHAT),
            200,
        )
        assert said["server.address"] == "test", "as the Host header says"
        assert said["forebay.outcome"] == "answered"
        assert "error.type" not in said
        assert wait.attributes == {"forebay.queue.place": 1, "forebay.queue.waits_for": "engines_full"}
        assert attempt.attributes["forebay.attempt.why"] == "only"
        assert (attempt.attributes["server.address"], attempt.attributes["server.port"]) == ("127.0.0.1", engine.port)
        assert request.resource["service.name"] == "forebay"
        heard = engine.calls(CHAT)[1].headers
        assert heard["traceparent"] == f"00-{request.trace_id}-{attempt.span_id}-01"
        line = next(one for one in running.log_lines() if one.get("stream"))
        assert (line["trace_id"], line["request_id"]) == (request.trace_id, said["forebay.request_id"])
        assert not any(SECRET in str(span.raw) for span in receiver.spans)
        assert running.figures()['forebay_trace_spans_total{result="sent"}'] == 3


async def test_a_takeover_is_two_attempts_and_a_resume(start_gateway: StartGateway) -> None:
    slow = {"token_delay_s": 0.002}
    with grpc_receiver() as receiver:
        async with FakeEngine(**slow) as one, FakeEngine(**slow) as two:
            async with start_gateway(one.url, two.url, otlp_traces_endpoint=receiver.url) as running:
                await all_ready(running)
                cuts = [Behaviour(faults=[Fault("token", "reset", after=3)])]
                one.default = two.default = lambda _: cuts.pop() if cuts else Behaviour()
                assert (await chat(running.url, stream=True)).status == 200
        spans = one_trace(receiver)
        request, first, second, resume = (
            spans[name] for name in ("chat fake-model", "attempt 1", "attempt 2", "resume")
        )
        assert len(spans) == 4
        assert {span.parent for span in (first, second, resume)} == {request.span_id}
        assert (first.failed, second.failed, resume.failed, request.failed) == (True, False, False, False)
        assert first.attributes["error.type"] == "closed"
        assert first.attributes["forebay.replica"] != second.attributes["forebay.replica"]
        (passed,) = second.attributes["forebay.attempt.passed_by"]
        assert passed == f"{first.attributes['forebay.replica']}: has just failed"
        assert first.end == resume.start <= second.start <= resume.end <= second.end
        assert resume.attributes["forebay.resume.events"] > 0
        assert request.attributes["forebay.takeovers"] == 1
        assert set(first.events) == {"first token"}
        assert second.events == {}
        asked = [record for e in (one, two) for record in e.requests if record.method == "POST"]
        ids = [record.headers["traceparent"].split("-")[2] for record in asked]
        assert set(ids) == {first.span_id, second.span_id}


async def test_the_caller_s_trace_is_gone_on_with(start_gateway: StartGateway) -> None:
    with http_receiver() as receiver:
        tracing = {"otlp_endpoint": receiver.url, "otlp_protocol": "http/protobuf", "trace_sample_ratio": 0.0}
        async with FakeEngine() as engine, start_gateway(engine.url, **tracing) as running:
            assert (await fetch(running.url, "POST", CHAT, chat_body(), **told(sampled=True))).status == 200
            assert (
                await fetch(running.url, "POST", "/generate", {"prompt": "hello"}, **told(sampled=True))
            ).status < 300
        requests = [span for span in receiver.spans if span.kind == SERVER]
        assert [(span.trace_id, span.parent, span.state) for span in requests] == [
            (TRACE, PARENT, "vendor=one,other=2")
        ] * 2
        asked = next(span for span in receiver.spans if span.kind == CLIENT)
        heard = engine.calls(CHAT)[0].headers
        assert heard["traceparent"] == f"00-{TRACE}-{asked.span_id}-01"
        assert heard["tracestate"] == "vendor=one,other=2"


@pytest.mark.parametrize("ratio", [None, 0.0, 1.0], ids=["tracing off", "ratio 0", "ratio 1"])
async def test_a_caller_s_trace_that_is_not_sampled_is_passed_on_as_it_is(
    ratio: float | None, start_gateway: StartGateway
) -> None:
    with grpc_receiver() as receiver:
        tracing = {"otlp_endpoint": receiver.url, "trace_sample_ratio": ratio} if ratio is not None else {}
        async with FakeEngine() as engine, start_gateway(engine.url, **tracing) as running:
            for sampled in (False,) if tracing else (False, True):
                headers = told(sampled)
                await fetch(running.url, "POST", CHAT, chat_body(), **headers)
                heard = engine.calls(CHAT)[-1].headers
                assert (heard["traceparent"], heard["tracestate"]) == (headers["traceparent"], headers["tracestate"])
        assert receiver.spans == []
        assert {line["trace_id"] for line in running.log_lines() if line["message"] == "request"} == {TRACE}


async def test_of_the_others_a_share_is_sampled_and_the_engine_told_which(start_gateway: StartGateway) -> None:
    with grpc_receiver() as receiver:
        tracing = {"otlp_endpoint": receiver.url, "trace_sample_ratio": 0.5}
        async with FakeEngine() as engine, start_gateway(engine.url, **tracing) as running:
            for _ in range(40):
                assert (await chat(running.url)).status == 200
            heard = [record.headers["traceparent"].split("-") for record in engine.calls(CHAT)]
            running.gateway.tracing.ratio = 0.0
            await chat(running.url, stream=True)
            assert engine.calls(CHAT)[-1].headers["traceparent"].endswith("-00")
        sampled = {trace_id for _, trace_id, _, flags in heard if flags == "01"}
        assert len(heard) == len({parts[1] for parts in heard}) == 40
        assert 5 < len(sampled) < 35
        assert {span.trace_id for span in receiver.spans} == sampled


async def test_what_went_wrong_is_told_without_the_engine_s_words(start_gateway: StartGateway) -> None:
    with grpc_receiver() as receiver:
        tracing = {"otlp_endpoint": receiver.url}
        async with FakeEngine() as engine, start_gateway(engine.url, **tracing) as running:
            engine.default = Behaviour(status=500, body={"error": {"message": SECRET}})
            assert (await chat(running.url)).status == 503
            engine.default = Behaviour(status=400, body={"error": {"message": SECRET}})
            assert (await chat(running.url)).status == 400
            model = "m" * 10_000
            refused = await fetch(running.url, "POST", CHAT, chat_body(model=model), **AUTH)
            assert refused.status == 404
            unknown = await fetch(running.url, "POST", CHAT, chat_body(), authorization="Bearer sk-wrong")
            assert unknown.status == 401
            engine.default = Behaviour()
            assert (await fetch(running.url, "POST", "/tokenize", {"prompt": "x"}, **AUTH)).status == 200
        requests = {
            (span.name, span.attributes["http.response.status_code"], span.attributes.get("error.type"), span.failed)
            for span in receiver.spans
            if span.kind == SERVER
        }
        assert requests == {
            ("chat fake-model", 503, "engine_error", True),
            ("chat fake-model", 400, "invalid_value", False),
            ("chat", 404, "model_not_found", False),
            ("chat", 401, "invalid_api_key", False),
            ("POST /tokenize", 200, None, False),
        }
        assert not any(SECRET in str(span.raw) for span in receiver.spans)
        assert max(len(str(span.raw)) for span in receiver.spans) < 5000


async def test_a_client_that_leaves_ends_its_spans(start_gateway: StartGateway) -> None:
    with grpc_receiver() as receiver:
        async with FakeEngine() as engine, start_gateway(engine.url, otlp_endpoint=receiver.url) as running:
            engine.default = Behaviour(faults=[Fault("token", "hang", after=2)])
            async with connect(running.url) as raw:
                await raw.request("POST", CHAT, chat_body(stream=True), AUTH)
                await engine.wait_for(lambda e: e.running == 1)
            await engine.wait_for(lambda e: e.running == 0)
        spans = one_trace(receiver)
        assert spans["chat fake-model"].attributes["forebay.outcome"] == "cancelled"
        assert spans["attempt 1"].attributes["error.type"] == "client_closed_request"
        assert not spans["chat fake-model"].failed


@pytest.mark.parametrize("protocol", RECEIVERS)
async def test_a_receiver_that_is_away_harms_no_request_and_is_told_of_once(
    protocol: str, start_gateway: StartGateway
) -> None:
    with RECEIVERS[protocol]() as receiver:
        url = receiver.url
    tracing = {"otlp_endpoint": url, "otlp_protocol": protocol}
    async with FakeEngine() as engine, start_gateway(engine.url, **tracing) as running:
        answers = [await chat(running.url, stream=True) for _ in range(30)]
        assert {answer.status for answer in answers} == {200}
        began = asyncio.get_running_loop().time()
        await running.stop()
        assert asyncio.get_running_loop().time() - began < 4
        told = [line for line in running.log_lines() if line.get("logger") == "forebay.tracing"]
        assert [(line["level"], line["message"]) for line in told] == [("warning", "traces cannot be sent")]


async def test_a_receiver_that_blocks_costs_spans_not_time(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebay.telemetry.otlp.MOST_WAITING", 128)
    with grpc_receiver() as receiver:
        receiver.open.clear()
        async with FakeEngine() as engine, start_gateway(engine.url, otlp_endpoint=receiver.url) as running:
            answers = await asyncio.gather(*(chat(running.url) for _ in range(100)))
            assert {answer.status for answer in answers} == {200}
            counts = running.gateway.tracing.sink.counts
            assert counts == {"sent": 0, "failed": 0, "dropped": 200 - 128}
            receiver.open.set()
            while running.gateway.tracing.sink.counts["sent"] < 128:
                await asyncio.sleep(0.01)
            await chat(running.url)
            figures = running.figures()
            assert figures['forebay_trace_spans_total{result="dropped"}'] == 72
        assert len(receiver.spans) == 128 + 2


async def test_opentelemetry_s_own_variables_are_heard(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    with grpc_receiver() as receiver:
        async with FakeEngine() as engine, start_gateway(engine.url, otlp_endpoint=receiver.url) as running:
            await chat(running.url)
        resource = receiver.spans[0].resource
        assert (resource["service.name"], resource["deployment.environment"]) == ("mine", "test")
        assert receiver.headers[0]["x-tenant"] == "blue"


def test_where_nothing_is_traced_opentelemetry_is_not_loaded() -> None:
    """(redis loads its SDK by itself where that is installed; the exporters and gRPC are what takes long.)"""
    check = (
        "import sys, forebay.cli.gateway, forebay.telemetry.tracing as tracing;"
        "from forebay.config.settings import Settings;"
        "assert tracing.open_tracing(Settings()) is None;"
        "sys.exit(bool({'grpc', 'opentelemetry.exporter', 'forebay.telemetry.otlp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
