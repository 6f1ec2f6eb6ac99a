"""The simple endpoints go the way of all requests, and say what came of it."""

import asyncio
from typing import Any

import pytest

from tests.gateway.calls import AUTH, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault, Record
from tests.gateway.raw_client import Response, connect, fetch

COMPLETIONS = "/v1/completions"
ONE_A_MINUTE = {"requests_per_minute": 1}
FIELDS = {"text", "tokens_generated", "prompt_tokens", "finish_reason", "generation_time", "model_name", "request_id"}


async def post(running: Running, path: str, headers: dict[str, str] | None = None, **body: Any) -> Response:
    return await fetch(running.url, "POST", path, body, **AUTH, **(headers or {}))


def asked(engine: FakeEngine) -> dict[str, Any]:
    """What the engine was asked last."""
    body: dict[str, Any] = engine.calls(COMPLETIONS)[-1].body
    return body


# One prompt


async def test_a_prompt_becomes_a_text_with_its_counts(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answer = await post(running, "/generate", {"x-request-id": "mine"}, prompt="one two three", max_tokens=3)
        assert answer.status == 200
        told = answer.json()
        assert set(told) == FIELDS
        assert (told["text"], told["tokens_generated"], told["prompt_tokens"]) == (" t0 t1 t2", 3, 3)
        assert (told["finish_reason"], told["model_name"], told["request_id"]) == ("length", "fake-model", "mine")
        assert 0 < told["generation_time"] < 30
        assert answer.header("x-request-id") == "mine"
        assert engine.calls(COMPLETIONS)[0].body == {"model": "fake-model", "prompt": "one two three", "max_tokens": 3}


async def test_a_body_that_is_not_said_to_be_json_is_refused(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            refused = await post(running, "/generate", {"content-type": content_type}, prompt="p")
            assert (refused.status, error_of(refused)["code"]) == (415, "unsupported_media_type")
        assert (
            await post(running, "/generate", {"content-type": "Application/JSON; charset=utf-8"}, prompt="p")
        ).status == 200


async def test_what_is_said_of_sampling_reaches_the_engine(start_gateway: StartGateway) -> None:
    said = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop": ["x", "y"], "seed": 7}
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        assert (await post(running, "/generate", prompt="p", **said)).status == 200
        assert asked(engine) == {"model": "fake-model", "prompt": "p", "max_tokens": 256, **said}
        assert (
            await post(running, "/generate", prompt="p", preset="balanced", top_p=0.5, temperature=None)
        ).status == 200
        assert (asked(engine)["temperature"], asked(engine)["top_p"]) == (0.7, 0.5)
        assert (await post(running, "/generate", prompt="p", model="fake-model:creative")).status == 200
        assert (asked(engine)["temperature"], asked(engine)["model"]) == (1.0, "fake-model")
        assert (await post(running, "/generate", {"x-forebay-preset": "creative"}, prompt="p")).status == 200
        assert asked(engine)["temperature"] == 1.0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": "x", "temperature": 2.1}, "temperature"),
        ({"prompt": "x", "temperature": "1"}, "temperature"),
        ({"prompt": "x", "temperature": True}, "temperature"),
        ({"prompt": "x", "top_p": 0}, "top_p"),
        ({"prompt": "x", "top_k": -2}, "top_k"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "x", "stop": ["a"] * 17}, "stop"),
        ({"prompt": "x", "stop": ""}, "stop"),
        ({"prompt": "x", "stop": ["a", 1]}, "stop"),
        ({"prompt": "x", "preset": "nope"}, "preset"),
        ({"prompt": "x", "n": 2}, "n"),
        ({"prompt": "x", "priority": 5}, "priority"),
    ],
)
async def test_what_is_wrong_is_refused_by_its_name(start_gateway: StartGateway, body: Any, param: str) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for path in ("/generate", "/generate/stream", "/generate/cached"):
            refused = await post(running, path, **body)
            assert refused.status == 400, refused.body
            assert error_of(refused)["param"] == param
        assert not engine.calls(COMPLETIONS)


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b"5", b'{"x":' + b"[" * 500, b'"{"' * 300),
        *(b'{"prompt":"a","prompt":"b"}', b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}'),
        b'{"prompt":"x","temperature":NaN}',
    ],
)
async def test_a_body_that_is_no_plain_object_is_refused(start_gateway: StartGateway, body: bytes) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        refused = await fetch(running.url, "POST", "/generate", body, **AUTH)
        assert refused.status == 400, refused.body
        error_of(refused)
        assert not engine.calls(COMPLETIONS)


async def test_who_calls_is_asked_before_what_they_send(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin",)) as running:
        assert (await fetch(running.url, "POST", "/generate", b"{")).status == 401
        only_admin = {"authorization": "Bearer sk-admin"}
        assert (await fetch(running.url, "POST", "/generate", b"{", **only_admin)).status == 403


async def test_a_model_must_be_named_where_there_are_several(start_gateway: StartGateway) -> None:
    async with FakeEngine(models=("a", "b")) as engine, start_gateway(engine.url) as running:
        refused = await post(running, "/generate", prompt="x")
        assert (refused.status, error_of(refused)["code"]) == (404, "model_not_found")
        told = (await post(running, "/generate", prompt="x", model="b")).json()
        assert (told["model_name"], asked(engine)["model"]) == ("b", "b")


async def test_limits_hold_and_their_headers_come_back(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits=ONE_A_MINUTE) as running:
        answer = await post(running, "/generate", prompt="x")
        assert (answer.status, answer.header("x-ratelimit-remaining-requests")) == (200, "0")
        for path in ("/generate", "/generate/stream", "/generate/cached"):
            refused = await post(running, path, prompt="x")
            assert (refused.status, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
            assert int(refused.header("retry-after") or 0) > 0


async def test_an_engines_failure_is_said_as_for_any_request(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, retry_attempts=1) as running:
        engine.script(Behaviour(status=400), Behaviour(status=500), Behaviour(body={"choices": []}))
        statuses = [(await post(running, "/generate", prompt="x")).status for _ in range(3)]
        assert statuses == [400, 503, 502]


async def test_the_metrics_and_the_log_know_of_it(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        await post(running, "/generate", {"x-request-id": "mine"}, prompt="x", max_tokens=2)
        figures = running.figures()
        assert any("completions" in name and name.startswith("forebay_requests") for name in figures)
        await running.stop()
        lines = [line for line in running.log_lines() if line.get("request_id") == "mine"]
        assert len(lines) == 2  # the caller's request, and ours for it


async def test_a_client_that_goes_ends_the_generation(start_gateway: StartGateway) -> None:
    body: dict[str, Any] = {"prompt": "x", "max_tokens": 10_000}
    async with FakeEngine(token_delay_s=0.01, max_model_len=40_000) as engine, start_gateway(engine.url) as running:
        for path, fields in (
            ("/generate", body),
            ("/generate/stream", body),
            ("/generate/batch", {"prompts": ["a", "b"], "max_tokens": 10_000}),
        ):
            async with connect(running.url) as raw:
                await raw.request("POST", path, fields, AUTH)
                await engine.wait_for(lambda e: e.running)
            await engine.wait_for(lambda e: not e.running)
            while running.gateway.pipeline.running:
                await asyncio.sleep(0.005)


# Streams


@pytest.mark.parametrize(("path", "flag"), [("/generate/stream", {}), ("/generate", {"stream": True})])
async def test_a_stream_tells_texts_then_counts_then_its_end(
    start_gateway: StartGateway, path: str, flag: dict[str, bool]
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits={"requests_per_minute": 9}) as running:
        answer = await post(running, path, {"x-request-id": "mine"}, prompt="one two", max_tokens=3, **flag)
        assert answer.status == 200
        assert (answer.header("content-type") or "").startswith("text/event-stream")
        assert answer.header("x-ratelimit-remaining-requests") == "8"
        *texts, counts, done = answer.events
        assert [event.json() for event in texts] == [{"text": f" t{n}", "index": n} for n in range(3)]
        told = counts.json()
        assert set(told) == FIELDS - {"text"}
        assert (told["finish_reason"], told["tokens_generated"], told["prompt_tokens"]) == ("length", 3, 2)
        assert (told["model_name"], told["request_id"]) == ("fake-model", "mine")
        assert done.data == "[DONE]"


async def test_a_stream_comes_as_it_is_generated(start_gateway: StartGateway) -> None:
    go_on = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(faults=[Fault("token", go_on, after=2)]))
        async with connect(running.url) as raw:
            await raw.request("POST", "/generate/stream", {"prompt": "x", "max_tokens": 4}, AUTH)
            head = await raw.read_head("POST")
            events = raw.events(head)
            assert (await anext(events)).json()["text"] == " t0"
            go_on.set()
            assert [event async for event in events][-1].data == "[DONE]"


async def test_a_stream_that_fails_says_so_and_ends(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, takeover_attempts=0, retry_attempts=1) as running:
        engine.script(Behaviour(error_after=2, token_delay_s=0.05), Behaviour(status=400))
        *texts, error, done = (await post(running, "/generate/stream", prompt="x")).events
        assert [event.json()["index"] for event in texts] == [0, 1]
        assert set(error.json()["error"]) == {"message", "type", "param", "code"}
        assert done.data == "[DONE]"
        assert (await post(running, "/generate/stream", prompt="x")).status == 400


# The cache


async def test_a_cached_answer_says_that_it_is(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answers = [(await post(running, "/generate/cached", prompt="x", max_tokens=3)).json() for _ in range(2)]
        assert [answer["cached"] for answer in answers] == [False, True]
        assert set(answers[0]) == FIELDS | {"cached"}
        assert [(one["text"], one["tokens_generated"]) for one in answers] == [(" t0 t1 t2", 3)] * 2
        assert (await post(running, "/generate/cached", prompt="x", max_tokens=3, seed=5)).json()["cached"] is False
        assert len(engine.calls(COMPLETIONS)) == 2
        assert "cached" not in (await post(running, "/generate", prompt="x", max_tokens=3)).json()


async def test_without_a_cache_nothing_is_cached(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, cache_max_bytes=0) as running:
        answers = [(await post(running, "/generate/cached", prompt="x")).json() for _ in range(2)]
        assert [answer["cached"] for answer in answers] == [False, False]


# Several prompts


@pytest.mark.parametrize("path", ["/generate/batch", "/batch_generate"])
async def test_each_prompt_has_its_own_result_in_its_place(start_gateway: StartGateway, path: str) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.default = lambda record: Behaviour(tokens=len(record.body["prompt"]))
        prompts = ["x" * n for n in (3, 1, 2)]
        told = (await post(running, path, {"x-request-id": "mine"}, prompts=prompts, max_tokens=9, seed=4)).json()
        assert [(one["index"], one["result"]["tokens_generated"]) for one in told["results"]] == [
            (0, 3),
            (1, 1),
            (2, 2),
        ]
        assert [one["result"]["request_id"] for one in told["results"]] == ["mine-0", "mine-1", "mine-2"]
        assert (told["succeeded"], told["failed"]) == (3, 0)
        assert all(one["error"] is None for one in told["results"])
        assert sorted(record.body["prompt"] for record in engine.calls(COMPLETIONS)) == ["x", "xx", "xxx"]
        assert all(record.body["seed"] == 4 for record in engine.calls(COMPLETIONS))


async def test_a_prompt_that_fails_fails_alone(start_gateway: StartGateway) -> None:
    def treat(record: Record) -> Behaviour:
        wrong = {"bad": Behaviour(status=400), "odd": Behaviour(body={"choices": []})}
        return wrong.get(record.body["prompt"], Behaviour())

    async with FakeEngine() as engine, start_gateway(engine.url, retry_attempts=1) as running:
        engine.default = treat
        answer = await post(running, "/generate/batch", prompts=["good", "bad", "odd", "good"])
        assert answer.status == 200
        results = answer.json()["results"]
        assert [one["result"] is not None for one in results] == [True, False, False, True]
        assert [results[n]["error"]["status"] for n in (1, 2)] == [400, 502]
        assert (answer.json()["succeeded"], answer.json()["failed"]) == (2, 2)


async def test_each_prompt_counts_for_limits(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits={"requests_per_minute": 2}) as running:
        told = (await post(running, "/generate/batch", prompts=["a", "b", "c"])).json()
        assert (told["succeeded"], told["failed"]) == (2, 1)
        (error,) = [one["error"] for one in told["results"] if one["error"]]
        assert (error["status"], error["code"]) == (429, "rate_limit_exceeded")
        assert error["retry_after"] > 0


async def test_a_batch_never_has_more_under_way_than_its_caller_may(start_gateway: StartGateway) -> None:
    async with (
        FakeEngine(token_delay_s=0.002) as engine,
        start_gateway(engine.url, key_limits={"concurrency": 2}) as running,
    ):
        told = (await post(running, "/generate/batch", prompts=["a"] * 8, max_tokens=2)).json()
        assert (told["succeeded"], told["failed"]) == (8, 0)


async def test_too_many_prompts_or_none_are_refused(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, max_batch_prompts=2) as running:
        for prompts in (["a"] * 3, []):
            refused = await post(running, "/generate/batch", prompts=prompts)
            assert (refused.status, error_of(refused)["param"]) == (400, "prompts")
        assert not engine.calls(COMPLETIONS)


async def test_an_empty_prompt_fails_alone(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        told = (await post(running, "/generate/batch", prompts=["a", ""], max_tokens=None)).json()
        assert (told["succeeded"], told["failed"]) == (1, 1)
        error = told["results"][1]["error"]
        assert (error["status"], error["param"]) == (400, "prompts.1")


# What is served


async def test_the_model_is_described(start_gateway: StartGateway) -> None:
    own = {"terse": {"top_k": 3}}
    async with FakeEngine(max_model_len=512) as engine, start_gateway(engine.url, presets=own) as running:
        told = (await fetch(running.url, "GET", "/model_info", **AUTH)).json()
        presets = told.pop("presets")
        assert told == {"model_name": "fake-model", "max_model_len": 512, "ready": True, "replicas": 1}
        assert set(presets) == {"deterministic", "creative", "balanced", "code_generation", "chat", "terse"}
        assert presets["terse"] == {"top_k": 3}
        missing = await fetch(running.url, "GET", "/model_info?model=nope", **AUTH)
        assert (missing.status, error_of(missing)["code"]) == (404, "model_not_found")
