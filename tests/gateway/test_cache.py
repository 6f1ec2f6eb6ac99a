"""The response cache in a gateway: what is answered from it, what never is, and one generation for many who ask."""

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.calls import AUTH, CHAT, MESSAGES, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, connect, fetch, text_of, token_numbers
from tests.waiting import until

CACHED = {"cache_models": ("*",)}
OTHER = {"authorization": "Bearer sk-other"}


async def ask(running: Running, headers: dict[str, str] | None = None, path: str = CHAT, **fields: Any) -> Response:
    body = chat_body(**{"temperature": 0, **fields})
    return await fetch(running.url, "POST", path, body, **{**AUTH, **(headers or {})})


def state(answer: Response) -> str | None:
    return answer.header("x-forebay-cache")


def waiting_for(running: Running, count: int) -> bool:
    """Whether so many wait for the answer to an identical request."""
    return sum(len(waiting) for waiting in running.gateway.caching.flights._waiting.values()) == count


# What is answered from it


async def test_the_same_question_is_answered_once_by_an_engine(start_gateway: StartGateway) -> None:
    async with FakeEngine(tagged=True) as engine, start_gateway(engine.url, **CACHED) as running:
        first, second = await ask(running), await ask(running)
        turned = json.dumps({"temperature": 0, "messages": MESSAGES, "user": "u", "model": "fake-model"}, indent=1)
        third = await fetch(running.url, "POST", CHAT, turned.encode(), **AUTH)
        assert [state(answer) for answer in (first, second, third)] == ["miss", "hit", "hit"]
        assert len(engine.calls(CHAT)) == 1
        ids = [answer.json().pop("id") for answer in (first, second, third)]
        assert len(set(ids)) == 3
        assert {one.partition("-")[0] for one in ids} == {ids[0].partition("-")[0]}
        bodies = [{**answer.json(), "id": ""} for answer in (first, second, third)]
        assert bodies[0] == bodies[1] == bodies[2]


async def test_a_stream_is_replayed_as_the_stream_it_was(start_gateway: StartGateway) -> None:
    async with FakeEngine(tagged=True) as engine, start_gateway(engine.url, **CACHED) as running:
        first, second = await ask(running, stream=True), await ask(running, stream=True)
        assert (state(first), state(second)) == ("miss", "hit")
        assert second.header("content-type") == first.header("content-type")
        assert text_of(second.events) == text_of(first.events) != ""
        assert second.events[-1].data == "[DONE]"
        ids = [{json.loads(event.data or "")["id"] for event in one.events[:-1]} for one in (first, second)]
        assert [len(each) for each in ids] == [1, 1]
        assert ids[0] != ids[1]
        asked = await ask(running, stream=True, stream_options={"include_usage": True})
        assert state(asked) == "miss"
        assert state(await ask(running)) == "miss"  # a whole answer is another entry
        assert len(engine.calls(CHAT)) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
async def test_other_endpoints_are_cached_apart(path: str, stream: bool, start_gateway: StartGateway) -> None:
    fields = {"prompt": "x", "max_tokens": 3, "stream": stream}
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        await ask(running, **fields)
        first, second = await ask(running, path=path, **fields), await ask(running, path=path, **fields)
        assert (state(first), state(second)) == ("miss", "hit")
        assert (second.status, len(second.body) > 0) == (200, True)
        if stream:
            assert text_of(second.events) == text_of(first.events)
        assert len(engine.calls(path)) == 1


async def test_embeddings_are_always_the_same(start_gateway: StartGateway) -> None:
    body = {"model": "fake-model", "input": "x"}
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        first = await fetch(running.url, "POST", "/v1/embeddings", body, **AUTH)
        second = await fetch(running.url, "POST", "/v1/embeddings", body, **AUTH)
        assert (state(first), state(second)) == ("miss", "hit")
        assert first.json()["data"] == second.json()["data"]


async def test_a_hit_needs_no_place_and_no_engine(start_gateway: StartGateway) -> None:
    limits = {"max_active_requests": 1, **CACHED}
    async with FakeEngine() as engine, start_gateway(engine.url, **limits) as running:
        await ask(running)
        event = asyncio.Event()
        engine.script(Behaviour(faults=[Fault("token", event)]))
        busy = asyncio.create_task(ask(running, seed=1))
        await engine.wait_for(lambda e: e.running == 1)
        assert state(await ask(running)) == "hit"
        assert (await ask(running, seed=2)).status == 503
        event.set()
        assert (await busy).status == 200


# What is not


async def test_nothing_is_cached_unless_it_is_asked_for(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        assert [state(await ask(running)) for _ in range(2)] == [None, None]
        use = {"x-forebay-cache": "use"}
        assert [state(await ask(running, use)) for _ in range(2)] == ["miss", "hit"]
        assert state(await ask(running)) is None
        assert len(engine.calls(CHAT)) == 4


async def test_the_cache_may_be_off_altogether(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, cache_max_bytes=0, **CACHED) as running:
        assert [state(await ask(running, {"x-forebay-cache": "use"})) for _ in range(2)] == [None, None]


async def test_only_the_models_named_are_cached(start_gateway: StartGateway) -> None:
    async with FakeEngine(models=["a", "b"]) as engine:
        async with start_gateway(engine.url, cache_models=("a",), model_aliases={"alias": "a"}) as running:
            assert [state(await ask(running, model=name)) for name in ("a", "alias", "b")] == ["miss", "hit", None]


async def test_tenants_never_see_each_others_answers(start_gateway: StartGateway) -> None:
    keys = {"api_keys": ("sk-test", "sk-other")}
    async with FakeEngine() as engine, start_gateway(engine.url, **keys, **CACHED) as running:
        states = [state(await ask(running, headers)) for headers in (AUTH, OTHER, AUTH, OTHER)]
        assert states == ["miss", "miss", "hit", "hit"]
        assert len(engine.calls(CHAT)) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forebay-cache": "bypass"},
        {"cache-control": "no-store"},
        {"cache-control": "max-age=0, No-Cache"},
    ],
)
async def test_a_request_may_pass_it_by(headers: dict[str, str], start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        states = [state(await ask(running, each)) for each in (headers, {}, headers)]
        assert states == ["bypass", "miss", "bypass"]
        assert len(engine.calls(CHAT)) == 3


async def test_what_is_drawn_anew_each_time_is_not_cached_unless_the_settings_say_so(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        assert [state(await ask(running, temperature=1)) for _ in range(2)] == ["bypass"] * 2
        assert [state(await ask(running, temperature=1, seed=1)) for _ in range(2)] == ["miss", "hit"]
    async with FakeEngine() as engine, start_gateway(engine.url, cache_sampled=True, **CACHED) as running:
        assert [state(await ask(running, temperature=1)) for _ in range(2)] == ["miss", "hit"]


INCOMPLETE = {
    "an engine's error": Behaviour(status=500),
    "a request that is wrong": Behaviour(status=400),
    "aborted": Behaviour(finish_reason="abort"),
    "filtered": Behaviour(finish_reason="content_filter"),
    "not json": Behaviour(body="<html>", content_type="text/html"),
}


@pytest.mark.parametrize("behaviour", INCOMPLETE.values(), ids=INCOMPLETE.keys())
@pytest.mark.parametrize("stream", [False, True])
async def test_only_what_ended_well_is_kept(behaviour: Behaviour, stream: bool, start_gateway: StartGateway) -> None:
    limits = {"retry_attempts": 1, "takeover_attempts": 0, **CACHED}
    async with FakeEngine() as engine, start_gateway(engine.url, **limits) as running:
        engine.script(behaviour)
        await ask(running, stream=stream)
        assert running.gateway.caching.describe()["entries"] == 0
        assert [state(await ask(running, stream=stream)) for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(error_after=2),
        Behaviour(faults=[Fault("mid_event", "reset", after=2)]),
        Behaviour(faults=[Fault("token", "finish", after=2)]),
    ],
)
async def test_a_stream_cut_short_is_not_kept(behaviour: Behaviour, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, takeover_attempts=0, **CACHED) as running:
        engine.script(behaviour)
        assert (await ask(running, stream=True)).events
        assert running.gateway.caching.describe()["entries"] == 0


async def test_a_stream_that_another_engine_went_on_with_is_not_kept(start_gateway: StartGateway) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url, **CACHED) as running:
        for engine in (one, two):
            engine.on(CHAT, Behaviour(faults=[Fault("token", "reset", after=2)]))
        answer = await ask(running, stream=True)
        assert (state(answer), answer.events[-1].data) == ("miss", "[DONE]")
        assert running.gateway.recorder.answered == 1
        assert running.gateway.caching.describe()["entries"] == 0


async def test_an_answer_too_long_goes_through_and_is_not_kept(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, cache_max_bytes=16_000, **CACHED) as running:
        for stream in (False, True):
            answers = [await ask(running, stream=stream, max_tokens=40) for _ in range(2)]
            assert [state(answer) for answer in answers] == ["miss", "miss"]
        assert running.gateway.caching.describe()["entries"] == 0


async def test_an_entry_is_given_out_for_its_time_and_its_room_is_bounded(start_gateway: StartGateway) -> None:
    limits = {"cache_ttl_s": 2.0, "cache_max_bytes": 64_000, **CACHED}
    async with FakeEngine() as engine, start_gateway(engine.url, **limits) as running:
        assert [state(await ask(running)) for _ in range(2)] == ["miss", "hit"]
        await asyncio.sleep(2.01)
        assert state(await ask(running)) == "miss"
        for number in range(200):
            await ask(running, seed=number)
        assert 0 < running.gateway.caching.entries.bytes <= 64_000
        figures = running.figures()
        assert figures["forebay_cache_bytes"] == running.gateway.caching.entries.bytes
        assert figures["forebay_cache_evictions_total"] > 50
        assert figures["forebay_cache_entries"] == running.gateway.caching.describe()["entries"]


# One generation for many


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hundred_identical_requests_at_once_are_generated_once(
    stream: bool, start_gateway: StartGateway
) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url, **CACHED) as running:
        answers = await asyncio.gather(*(ask(running, stream=stream) for _ in range(100)))
        assert {answer.status for answer in answers} == {200}
        assert sorted(filter(None, map(state, answers))) == ["hit"] * 99 + ["miss"]
        assert len(engine.calls(CHAT)) == 1
        if stream:
            assert all(token_numbers(text_of(answer.events)) == list(range(8)) for answer in answers)
        figures = running.figures()
        assert figures['forebay_cache_requests_total{model="fake-model",result="hit"}'] == 99
        assert figures['forebay_cache_requests_total{model="fake-model",result="miss"}'] == 1
        labels = '{endpoint="chat_completions",model="fake-model"}'
        assert figures[f"forebay_completion_tokens_total{labels}"] == 8


async def held(engine: FakeEngine, running: Running, count: int, **fields: Any) -> tuple[Any, list[Any], asyncio.Event]:
    """A leader whose stream is held after two tokens, and `count` who wait."""
    go_on = asyncio.Event()
    engine.script(Behaviour(faults=[Fault("token", go_on, after=2)]))
    leader = asyncio.create_task(ask(running, **fields))
    await engine.wait_for(lambda e: e.running == 1)
    others = [asyncio.create_task(ask(running, **fields)) for _ in range(count)]
    await until(lambda: waiting_for(running, count))
    return leader, others, go_on


async def test_where_the_leader_is_cut_midway_one_of_those_who_wait_takes_the_lead(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, takeover_attempts=0, **CACHED) as running:
        engine.script(Behaviour(faults=[Fault("token", go_on := asyncio.Event(), 2), Fault("token", "reset", 3)]))
        leader = asyncio.create_task(ask(running, stream=True))
        await engine.wait_for(lambda e: e.running == 1)
        others = [asyncio.create_task(ask(running, stream=True)) for _ in range(20)]
        await until(lambda: waiting_for(running, 20))
        go_on.set()
        assert "error" in (await leader).events[-2].json()
        answers: list[Response] = await asyncio.gather(*others)
        assert sorted(filter(None, map(state, answers))) == ["hit"] * 19 + ["miss"]
        assert all(token_numbers(text_of(answer.events)) == list(range(8)) for answer in answers)
        assert len(engine.calls(CHAT)) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_where_the_leader_leaves_one_of_those_who_wait_takes_the_lead(
    stream: bool, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        go_on = asyncio.Event()
        engine.script(Behaviour(faults=[Fault("token", go_on, after=2)]))
        body = chat_body(temperature=0, stream=stream)
        async with connect(running.url) as leader:
            await leader.request("POST", CHAT, body, AUTH)
            await engine.wait_for(lambda e: e.running == 1)
            others = [asyncio.create_task(ask(running, stream=stream)) for _ in range(5)]
            await until(lambda: waiting_for(running, 5))
        answers: list[Response] = await asyncio.gather(*others)
        assert sorted(filter(None, map(state, answers))) == ["hit"] * 4 + ["miss"]
        await engine.wait_for(lambda e: [record.outcome for record in e.calls(CHAT)] == ["aborted", "finished"])


async def test_who_waits_and_leaves_costs_nobody_anything(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        leader, others, go_on = await held(engine, running, 2)
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(temperature=0), AUTH)
            await until(lambda: waiting_for(running, 3))
        await until(lambda: waiting_for(running, 2))
        go_on.set()
        assert [state(answer) for answer in await asyncio.gather(leader, *others)] == ["miss", "hit", "hit"]
        assert len(running.gateway.pipeline.running) == 0


async def test_a_wait_has_an_end(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, cache_wait_s=0.5, **CACHED) as running:
        leader, others, go_on = await held(engine, running, 3)
        assert [state(answer) for answer in await asyncio.gather(*others)] == ["miss"] * 3
        go_on.set()
        assert state(await leader) == "miss"
        assert len(running.gateway.caching.flights) == 0


async def test_a_wrong_request_is_refused_to_each_and_all_at_once(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        engine.default = Behaviour(status=400, head_delay_s=0.1)
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*(ask(running) for _ in range(50)))
        assert {answer.status for answer in answers} == {400}
        assert len(running.gateway.caching.flights) == 0


async def test_a_drain_ends_those_who_wait(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, drain_timeout_s=0.1, **CACHED) as running:
        leader, others, _ = await held(engine, running, 3)
        running.server.stop()
        answers: list[Response] = await asyncio.gather(leader, *others)
        assert {answer.status for answer in answers} == {503}
        assert len(running.gateway.pipeline.running) == 0


async def test_the_log_and_health_tell_of_it(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **CACHED) as running:
        await ask(running)
        await ask(running)
        health = (await fetch(running.url, "GET", "/healthz", **AUTH)).json()
        assert health["cache"]["entries"] == 1
        await running.stop()
        lines = [line for line in running.log_lines() if line["message"] == "request"]
        assert [line["cache"] for line in lines if line["endpoint"] == "chat_completions"] == ["miss", "hit"]
        assert lines[1]["completion_tokens"] == lines[0]["completion_tokens"]
