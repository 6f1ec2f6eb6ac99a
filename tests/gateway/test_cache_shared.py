"""Cached answers in a real Valkey, shared by two gateways; and what becomes of requests when it is down or slow."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay.policy.cache import Entry
from forebay.store.cache_redis import SharedEntries
from forebay.wire.usage import Usage
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine
from tests.gateway.raw_client import Response
from tests.gateway.test_cache import ask, held, state
from tests.servers import ValkeyServer
from tests.waiting import until

ENTRY = Entry(b"data: x\n\n", stream=True, answer_id="chatcmpl-1", usage=Usage(1, 2, 3))


@asynccontextmanager
async def entries(valkey: ValkeyServer, timeout_s: float = 2.0) -> AsyncIterator[SharedEntries]:
    shared = SharedEntries(valkey.url, timeout_s)
    try:
        yield shared
    finally:
        await shared.close()


@asynccontextmanager
async def two_gateways(
    start_gateway: StartGateway, engine: FakeEngine, valkey: ValkeyServer, **settings: Any
) -> AsyncIterator[tuple[Running, Running]]:
    usual = {"cache_models": ("*",), "cache_shared": True, "redis_url": valkey.url, "redis_timeout_s": 2.0}
    async with start_gateway(engine.url, **{**usual, **settings}) as one:
        async with start_gateway(engine.url, **{**usual, **settings}) as other:
            yield one, other


# The entries


async def test_an_entry_comes_back_whole_with_the_time_it_has_left(valkey: ValkeyServer) -> None:
    async with entries(valkey) as one, entries(valkey) as other:
        assert await one.find(b"k", 30) is None
        one.put(b"k", ENTRY, 100)
        found = await other.find(b"k", 30)
        assert found is not None
        assert found[0] == ENTRY
        assert 90 < found[1] <= 100
        assert valkey.client.keys("forebay:cache:leader:*") == []


async def test_an_entry_that_cannot_be_read_is_none(valkey: ValkeyServer) -> None:
    async with entries(valkey) as shared:
        valkey.client.set(b"forebay:cache:entry:k", b"not ours", px=1000)
        assert await shared.find(b"k", 30) is None


async def test_one_gateway_generates_and_the_others_wait(valkey: ValkeyServer) -> None:
    async with entries(valkey) as one, entries(valkey) as other:
        assert await one.find(b"k", 30) is None
        waiting = asyncio.create_task(other.find(b"k", 30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        one.put(b"k", ENTRY, 100)
        found = await waiting
        assert found is not None
        assert found[0] == ENTRY


async def test_another_takes_the_lead_where_the_first_lets_it_go_or_dies(valkey: ValkeyServer) -> None:
    async with entries(valkey) as one, entries(valkey) as other:
        assert await one.find(b"k", 30) is None
        waiting = asyncio.create_task(other.find(b"k", 30))
        await asyncio.sleep(0.1)
        one.let_go(b"k")
        assert await waiting is None
        assert valkey.client.get("forebay:cache:leader:k") is not None
        one.let_go(b"k")  # it is not one's any more
        started = time.monotonic()
        assert await one.find(b"k", 0.3) is None  # the other never says anything again
        assert 0.25 < time.monotonic() - started < 20
        assert valkey.client.get("forebay:cache:leader:k") is not None


# Through gateways


@pytest.mark.parametrize("stream", [False, True])
async def test_what_one_gateway_knows_the_other_does_too(
    stream: bool, valkey: ValkeyServer, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, two_gateways(start_gateway, engine, valkey) as (one, other):
        first, second = await ask(one, stream=stream), await ask(other, stream=stream)
        assert (state(first), state(second)) == ("miss", "hit")
        assert len(first.body) == len(second.body)
        assert len(engine.calls("/v1/chat/completions")) == 1
        assert other.gateway.caching.describe()["entries"] == 1


async def test_identical_requests_at_two_gateways_are_generated_once(
    valkey: ValkeyServer, start_gateway: StartGateway
) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, two_gateways(start_gateway, engine, valkey) as both:
        answers = await asyncio.gather(*(ask(running) for running in both * 50))
        assert sorted(filter(None, map(state, answers))) == ["hit"] * 99 + ["miss"]
        assert len(engine.calls("/v1/chat/completions")) == 1


async def test_where_one_gateways_leader_fails_the_other_gateway_takes_the_lead(
    valkey: ValkeyServer, start_gateway: StartGateway
) -> None:
    limits = {"retry_attempts": 1, "takeover_attempts": 0}
    async with FakeEngine() as engine, two_gateways(start_gateway, engine, valkey, **limits) as (one, other):
        engine.script(Behaviour(status=500, head_delay_s=0.2))
        leader = asyncio.create_task(ask(one))
        await engine.wait_for(lambda e: e.running == 1)
        follower = asyncio.create_task(ask(other))
        assert (await leader).status == 503
        assert (await follower).status == 200


async def test_a_tenants_entries_are_its_own_at_every_gateway(
    valkey: ValkeyServer, start_gateway: StartGateway
) -> None:
    keys = {"api_keys": ("sk-test", "sk-other")}
    async with FakeEngine() as engine, two_gateways(start_gateway, engine, valkey, **keys) as (one, other):
        await ask(one)
        assert state(await ask(other, {"authorization": "Bearer sk-other"})) == "miss"


async def all_served(running: Running) -> list[Response]:
    answers = [await ask(running, seed=number) for number in range(10)]
    assert {answer.status for answer in answers} == {200}
    return answers


async def test_a_server_that_is_down_costs_no_request_anything(
    valkey: ValkeyServer, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, two_gateways(start_gateway, engine, valkey) as (one, other):
        await all_served(one)
        valkey.kill()
        try:
            answers = [await ask(other, seed=number) for number in range(10)] + await all_served(one)
            assert [state(answer) for answer in answers] == ["miss"] * 10 + ["hit"] * 10
            assert other.figures()["forebay_cache_shared_failures_total"] >= 1
        finally:
            valkey.start()
        for running in (one, other):
            shared = running.gateway.caching.shared
            assert shared is not None
            await until(lambda shared=shared: not shared.is_away)
        await ask(one, seed=1000)
        assert state(await ask(other, seed=1000)) == "hit"


async def test_a_server_that_hangs_costs_little_and_not_every_request(
    valkey: ValkeyServer, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, two_gateways(start_gateway, engine, valkey, redis_timeout_s=0.5) as (one, _):
        await ask(one)
        valkey.stop()
        try:
            started = time.monotonic()
            await all_served(one)
            assert time.monotonic() - started < 3
        finally:
            valkey.go_on()


async def test_those_who_wait_have_the_answer_though_the_server_is_down(
    valkey: ValkeyServer, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, two_gateways(start_gateway, engine, valkey) as (one, _):
        leader, others, go_on = await held(engine, one, 5)
        valkey.kill()
        try:
            go_on.set()
            answers = await asyncio.gather(leader, *others)
            assert [state(answer) for answer in answers] == ["miss"] + ["hit"] * 5
        finally:
            valkey.start()
