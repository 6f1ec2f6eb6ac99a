"""C11: what does not fit the context is told so, at once where that is sure; and in the same words by engines."""

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import fetch
from tests.waiting import all_ready

MESSAGES = [{"role": "user", "content": "hi"}]
TOO_LONG: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": MESSAGES, "max_tokens": 4097}, "max_tokens"),
    (CHAT, {"messages": MESSAGES, "max_completion_tokens": 4097}, "max_completion_tokens"),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 4097}, "max_tokens"),
    ("/v1/completions", {"prompt": [7] * 4097, "max_tokens": 1}, "prompt"),
    ("/v1/completions", {"prompt": [[7], [7] * 4097], "max_tokens": 1}, "prompt"),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 4097}, "max_output_tokens"),
]
FITTING: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": MESSAGES, "max_tokens": 4096}),
    (CHAT, {"messages": MESSAGES, "max_tokens": 9999, "max_completion_tokens": 1}),
    ("/v1/completions", {"prompt": [7] * 4096, "max_tokens": 1}),
    ("/v1/completions", {"prompt": [7] * 4097, "truncate_prompt_tokens": 9, "max_tokens": 1}),
    ("/v1/completions", {"prompt": "hi", "max_completion_tokens": 9999, "max_tokens": 1}),
    ("/v1/embeddings", {"input": "hi", "max_tokens": 9999}),
    ("/tokenize", {"prompt": "hi", "max_tokens": 9999}),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_no_engine_has_room_for_is_refused_before_it_waits_in_line(
    stream: bool, start_gateway: StartGateway
) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1) as running:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        holder = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 1)
        for path, body, param in TOO_LONG:
            answer = await fetch(running.url, "POST", path, {"model": "fake-model", "stream": stream, **body}, **AUTH)
            told = error_of(answer)
            assert (answer.status, told["code"], told["param"]) == (400, "context_length_exceeded", param), body
            assert "4096" in told["message"]
        body = {"model": "fake-model", "messages": MESSAGES, "max_tokens": 4097}
        answer = await fetch(running.url, "POST", "/v1/messages", body, **AUTH)
        assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        gate.set()
        assert (await holder).status == 200
        assert len([record for record in engine.requests if record.method == "POST"]) == 1


async def test_nothing_that_an_engine_would_take_is_refused(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.default = lambda record: Behaviour(tokens=1)
        for path, body in FITTING:
            answer = await fetch(running.url, "POST", path, {"model": "fake-model", **body}, **AUTH)
            assert answer.status == 200, (path, answer.body)


async def test_the_engine_with_the_most_room_counts(start_gateway: StartGateway) -> None:
    async with FakeEngine(max_model_len=100) as small, FakeEngine(max_model_len=200) as large:
        async with start_gateway(small.url, large.url) as running:
            while running.gateway.replicas.longest != {"fake-model": 200}:
                await asyncio.sleep(0.01)
            assert (await chat(running.url, max_tokens=200)).status == 200
            assert (await chat(running.url, max_tokens=201)).status == 400


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": MESSAGES}, "messages"),
        ("/v1/completions", {"prompt": "hi"}, "prompt"),
        ("/v1/embeddings", {"input": "hi"}, "input"),
        ("/v1/responses", {"input": "hi"}, "input"),
    ],
)
async def test_what_an_engine_refuses_for_its_length_has_the_same_code_on_every_endpoint(
    path: str, body: dict[str, Any], param: str, start_gateway: StartGateway
) -> None:
    message = "This model's maximum context length is 1024 tokens. However, your prompt contains at least 1025."
    error = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(status=400, body={"error": error}))
        answer = await fetch(running.url, "POST", path, {"model": "fake-model", **body}, **AUTH)
        told = error_of(answer)
        assert (answer.status, told["code"], told["param"]) == (400, "context_length_exceeded", param)


async def test_a_wrong_request_of_which_the_stream_tells_is_the_callers_fault_and_no_engines(
    start_gateway: StartGateway,
) -> None:
    """As vLLM tells of an id of no token in `logit_bias`: with status 200, in the first event. No tenant may have
    engines taken for broken by asking wrongly."""
    message = "token_id(s) [99999999] in logit_bias contain out-of-vocab token ids."
    error = {"message": message, "type": "BadRequestError", "param": "logit_bias", "code": 400}
    told = Behaviour(tokens=0, insert={0: b"data: %s\n\n" % json.dumps({"error": error}).encode()})
    async with FakeEngine() as one, FakeEngine() as two:
        async with start_gateway(one.url, two.url, breaker_failures=2) as running:
            await all_ready(running)
            one.default = two.default = lambda record: told
            for _ in range(8):
                answer = await chat(running.url, stream=True, logit_bias={"99999999": 1})
                refusal = error_of(answer)
                assert (answer.status, refusal["code"], refusal["param"]) == (400, "invalid_value", "logit_bias")
            assert len(one.calls(CHAT) + two.calls(CHAT)) == 8, "nobody was asked twice"
            one.default = two.default = lambda record: Behaviour(tokens=1)
            assert [(await chat(running.url, stream=True)).status for _ in range(4)] == [200] * 4
            assert one.calls(CHAT)
            assert two.calls(CHAT)
