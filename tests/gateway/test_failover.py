"""Several engines, one of which fails: what may be tried again, and when one is left alone."""

import asyncio
from typing import Any

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch
from tests.waiting import all_ready

FIRST_FAILS = {
    "closed within the head": Behaviour(faults=[Fault("mid_head", "close")]),
    "no HTTP": Behaviour(raw=b"\x00\x01 this is not HTTP\r\n\r\n"),
    "no JSON": Behaviour(body="<html>busy</html>"),
    "half of a whole answer": Behaviour(body=b'{"choices": [', content_type="application/json"),
    "500": Behaviour(status=500),
    "502": Behaviour(status=502, body="bad gateway"),
    "503": Behaviour(status=503),
    "504": Behaviour(status=504, body="gateway timeout"),
    "engine dead": Behaviour(status=500, body={"error": {"message": "EngineCore encountered an issue. See stack"}}),
    "nothing in time": Behaviour(faults=[Fault("head", "hang")]),
}


@pytest.mark.parametrize("behaviour", FIRST_FAILS.values(), ids=FIRST_FAILS.keys())
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_another_engine_answers_unnoticed(
    behaviour: Behaviour, stream: bool, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as one, FakeEngine() as two:
        async with start_gateway(one.url, two.url, first_byte_timeout_s=1.5) as running:
            await all_ready(running)
            first_choice = True

            def once(record: Any) -> Behaviour:
                nonlocal first_choice
                failing, first_choice = first_choice, False
                return behaviour if failing else Behaviour()

            one.default = two.default = once
            answer = await chat(running.url, stream=stream, max_tokens=4)
            assert answer.status == 200
            assert len(one.calls(CHAT)) == len(two.calls(CHAT)) == 1
            assert sum(replica.in_flight for replica in running.gateway.replicas) == 0


async def test_a_connection_at_rest_that_turns_out_to_be_reset_costs_no_second_engine(
    start_gateway: StartGateway,
) -> None:
    rarely = {"health_interval_s": 60.0}  # a check under way would have the connection at rest
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url, **rarely) as running:
        await all_ready(running)
        behaviours = [Behaviour(), Behaviour(faults=[Fault("head", "reset")])]
        one.default = two.default = lambda record: behaviours.pop() if behaviours else Behaviour()
        assert (await chat(running.url)).status == 200
        assert sorted((len(one.calls(CHAT)), len(two.calls(CHAT)))) == [0, 2]


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_what_another_engine_would_answer_alike_is_asked_once(status: int, start_gateway: StartGateway) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        one.default = two.default = lambda record: Behaviour(status=status)
        await chat(running.url)
        assert len(one.calls(CHAT)) + len(two.calls(CHAT)) == 1


async def test_a_stream_that_cannot_be_continued_is_not_asked_again(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.02) as one, FakeEngine(token_delay_s=0.02) as two:
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            one.default = two.default = lambda record: Behaviour(faults=[Fault("token", "reset", after=3)])
            answer = await chat(running.url, stream=True, logprobs=True)
            assert b'"code":"engine_unavailable"' in answer.body
            assert len(one.calls(CHAT)) + len(two.calls(CHAT)) == 1


async def test_when_everything_fails_retries_are_a_fifth_at_most_and_none_is_left_waiting(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        one.default = two.default = lambda record: Behaviour(status=503)
        asked = 200
        answers = [await chat(running.url) for _ in range(asked)]
        assert {answer.status for answer in answers} == {503}
        assert all(1 <= int(answer.header("retry-after") or 0) <= 60 for answer in answers)
        assert len(one.calls(CHAT)) + len(two.calls(CHAT)) <= asked * 1.2 + 10


async def test_where_the_budget_allows_no_retry_the_caller_is_told_to_come_back(start_gateway: StartGateway) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        one.default = two.default = lambda record: Behaviour(body="<html>busy</html>")
        answers = [await chat(running.url) for _ in range(60)]
        assert {(answer.status, error_of(answer)["code"]) for answer in answers} == {
            (502, "upstream_invalid_response"),  # two engines said so
            (503, "engine_unavailable"),
        }
        assert all(1 <= int(answer.header("retry-after") or 0) <= 60 for answer in answers)


async def test_an_engine_that_fails_again_and_again_is_left_alone_and_then_tried_once(
    start_gateway: StartGateway,
) -> None:
    quick = {"breaker_failures": 3, "breaker_pause_s": 2.0}
    async with FakeEngine() as good, FakeEngine() as bad, start_gateway(good.url, bad.url, **quick) as running:
        await all_ready(running)
        bad.default = lambda record: Behaviour(status=500)
        breaker = next(r.breaker for r in running.gateway.replicas if r.name == bad.url)
        while breaker.state.value == "closed":
            await chat(running.url)
        seen = len(bad.calls(CHAT))
        assert seen == 3
        assert {(await chat(running.url)).status for _ in range(10)} == {200}
        assert len(bad.calls(CHAT)) == seen
        status = (await fetch(running.url, "GET", "/healthz", **AUTH)).json()
        assert {r["name"]: r["breaker"] for r in status["replicas"]}[bad.url] == "open"
        assert running.figures()[f'forebay_breaker_state{{replica="{bad.url}",state="open"}}'] == 1
        bad.default = lambda record: Behaviour()
        while breaker.state.value != "closed":
            assert (await chat(running.url)).status == 200
            await asyncio.sleep(0.01)
        assert len(bad.calls(CHAT)) == seen + 1, "one trial"


async def test_streams_that_fail_inside_a_200_open_the_breaker_too(start_gateway: StartGateway) -> None:
    async with FakeEngine() as good, FakeEngine() as bad, start_gateway(good.url, bad.url) as running:
        await all_ready(running)
        bad.default = lambda record: Behaviour(error_after=1)
        breaker = next(r.breaker for r in running.gateway.replicas if r.name == bad.url)
        async with asyncio.timeout(20):
            while breaker.state.value == "closed":
                await chat(running.url, stream=True)


async def test_the_only_engine_is_never_closed_off(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, breaker_failures=2) as running:
        engine.default = lambda record: Behaviour(status=500)
        for _ in range(6):
            assert error_of(await chat(running.url))["code"] == "engine_error"
        assert len(engine.calls(CHAT)) == 6


async def test_clients_that_leave_say_nothing_of_an_engine(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, breaker_failures=2) as running:
        engine.default = lambda record: Behaviour(faults=[Fault("head", "hang")])
        for _ in range(5):
            async with connect(running.url) as raw:
                await raw.request("POST", CHAT, chat_body(), AUTH)
                await engine.wait_for(lambda e: e.running == 1)
            await engine.wait_for(lambda e: e.running == 0)
        assert next(iter(running.gateway.replicas)).breaker.state.value == "closed"
