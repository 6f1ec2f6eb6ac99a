"""Limits through a real gateway: what is counted, what callers are told, what comes back."""

import asyncio
import json

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, connect, fetch

LONG = 10**6


async def test_requests_beyond_the_limit_are_refused_with_openais_headers(start_gateway: StartGateway) -> None:
    limits = {"requests_per_minute": 3, "tokens_per_minute": LONG}
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits=limits) as running:
        answers = [await chat(running.url) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["2", "1", "0", "0"]
        assert {answer.header("x-ratelimit-limit-requests") for answer in answers} == {"3"}
        assert answers[0].header("x-ratelimit-limit-tokens") == str(LONG)
        refused = answers[3]
        error = error_of(refused)
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert 30 <= int(refused.header("retry-after") or 0) <= 60
        assert refused.header("cache-control") == "no-store"
        assert (refused.header("x-ratelimit-reset-requests") or "").endswith("s")
        assert refused.header("x-should-retry") is None
        assert len([one for one in engine.requests if one.method == "POST"]) - 3 <= 1  # the warm-up's, at most


async def test_who_is_not_limited_is_told_nothing_of_limits(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answer = await chat(running.url)
        assert not [name for name, _ in answer.headers if name.startswith("x-ratelimit")]


async def test_tokens_are_settled_with_the_engines_count(start_gateway: StartGateway) -> None:
    limits = {"tokens_per_minute": 1000}
    async with FakeEngine(tokens=5) as engine, start_gateway(engine.url, key_limits=limits) as running:
        for stream in (False, True):
            engine.script(Behaviour(prompt_tokens=100, tokens=20))
            await chat(running.url, stream=stream, max_tokens=500)
        assert tokens_left(await chat(running.url, max_tokens=0)) == 1000 - 240 - len_of_prompt()


async def test_a_request_that_may_need_more_tokens_than_are_left_is_refused(start_gateway: StartGateway) -> None:
    limits = {"tokens_per_minute": 1000}
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits=limits) as running:
        engine.script(Behaviour(prompt_tokens=500, tokens=300))
        assert (await chat(running.url, max_tokens=300)).status == 200
        refused = await chat(running.url, max_tokens=300)
        assert (refused.status, error_of(refused)["type"]) == (429, "tokens")
        assert (await chat(running.url, max_tokens=50)).status == 200


async def test_pictures_at_a_time_are_no_whole_minutes_tokens(start_gateway: StartGateway) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 400_000}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    hold = asyncio.Event()
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, key_limits={"tokens_per_minute": 10_000}) as running,
    ):
        engine.script(*[Behaviour(faults=[Fault("head", hold)]) for _ in range(5)])
        asked = [asyncio.create_task(chat(running.url, messages=messages, max_tokens=10)) for _ in range(5)]
        await engine.wait_for(lambda one: len(one.calls(CHAT)) == 5)
        hold.set()
        assert [(await one).status for one in asked] == [200] * 5


async def test_of_a_stream_that_its_caller_left_what_was_delivered_counts(start_gateway: StartGateway) -> None:
    limits = {"tokens_per_minute": 1000, "concurrency": 1}
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits=limits) as running:
        engine.script(Behaviour(tokens=500, faults=[Fault("token", "hang", after=7)]))
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(stream=True, max_tokens=500), AUTH)
            head = await raw.read_head("POST")
            async for event in raw.events(head):
                if event.data is not None and " t6" in event.data:
                    break
        await engine.wait_for(lambda e: e.running == 0)
        left = tokens_left(await chat(running.url, max_tokens=0))
        assert 1000 - 7 - 3 * 60 <= left <= 1000 - 7 - 2 * len_of_prompt()


async def test_what_failed_and_generated_nothing_costs_nothing(start_gateway: StartGateway) -> None:
    limits = {"requests_per_minute": 1, "tokens_per_minute": 1000, "tokens_per_day": 1000}
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits=limits) as running:
        for _ in range(3):
            engine.script(Behaviour(status=500))
            assert (await chat(running.url, max_tokens=900)).status == 503
        assert (await chat(running.url, max_tokens=900)).status == 200


async def test_what_the_engine_finds_wrong_gives_its_tokens_back(start_gateway: StartGateway) -> None:
    limits = {"requests_per_minute": 2, "tokens_per_minute": 1000}
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits=limits) as running:
        engine.script(Behaviour(status=400))
        assert (await chat(running.url, max_tokens=900)).status == 400
        assert (await chat(running.url, max_tokens=900)).status == 200
        assert (await chat(running.url)).status == 429


async def test_no_more_run_at_once_than_the_limit(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, tenant_limits={"concurrency": 2}) as running:
        engine.default = Behaviour(faults=[Fault("token", gate)])
        under_way = [asyncio.create_task(chat(running.url)) for _ in range(2)]
        await engine.wait_for(lambda e: e.running == 2)
        refused = await chat(running.url)
        assert (refused.status, refused.header("retry-after")) == (429, "1")
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*under_way)] == [200, 200]
        assert (await chat(running.url)).status == 200


async def test_a_used_up_budget_is_told_as_one_and_not_to_be_retried(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, global_limits={"tokens_per_month": 100}) as running:
        engine.script(Behaviour(prompt_tokens=60, tokens=40))
        assert (await chat(running.url)).status == 200
        refused = await chat(running.url)
        assert refused.status == 429
        assert error_of(refused)["code"] == error_of(refused)["type"] == "insufficient_quota"
        assert refused.header("x-should-retry") == "false"
        anthropic = await fetch(running.url, "POST", "/v1/messages", chat_body(max_tokens=5), x_api_key="sk-test")
        assert anthropic.json()["error"]["type"] == "rate_limit_error"


async def test_without_keys_each_address_has_its_own_limit(start_gateway: StartGateway) -> None:
    limits = {"requests_per_minute": 1}
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=(), address_limits=limits) as running:
        assert [(await chat(running.url)).status for _ in range(2)] == [200, 429]
        assert running.figures()["forebay_limits_accounts"] == 1


async def test_what_engines_do_not_work_on_takes_no_tokens(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits={"tokens_per_minute": 50}) as running:
        for _ in range(3):
            answer = await fetch(running.url, "POST", "/tokenize", {"prompt": "x" * 1000}, **AUTH)
            assert (answer.status, tokens_left(answer)) == (200, 50)


@pytest.mark.parametrize("stream", [False, True])
async def test_exactly_as_many_pass_as_the_limit_however_many_ask_at_once(
    start_gateway: StartGateway, stream: bool
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits={"requests_per_minute": 60}) as running:
        answers = await asyncio.gather(*(chat(running.url, stream=stream) for _ in range(150)))
        assert sorted(answer.status for answer in answers) == [200] * 60 + [429] * 90


def tokens_left(answer: Response) -> int:
    return int(answer.header("x-ratelimit-remaining-tokens") or "")


def len_of_prompt() -> int:
    """What is reserved for the prompt of `chat(url, max_tokens=0)`."""
    return len(json.dumps(chat_body(max_tokens=0))) // 4
