"""Limits over shared counts: exact between gateways, and never a failed request where the counts are away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from forebay.policy.auth import UNLIMITED, fixed_keys
from forebay.store.limits_script import GATEWAYS
from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, connect, fetch
from tests.servers import ValkeyServer
from tests.store.proxy import Proxy
from tests.waiting import until

COUNTS = "forebay:{limits}:key:" + fixed_keys(["sk-test"], [], {}, UNLIMITED)["sk-test"].key_id
IMPATIENT: dict[str, Any] = {"redis_timeout_s": 0.2}  # where they are away, that is found out soon


@asynccontextmanager
async def gateways(
    start: StartGateway, engine: FakeEngine, url: str, count: int = 2, *, shared: bool = True, **flags: object
) -> AsyncIterator[list[Running]]:
    """So many gateways that know of each other; patient, so that a pause of the machine is none of the counts."""
    flags = {"redis_timeout_s": 5.0, **flags}
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(start(engine.url, redis_url=url, **flags)) for _ in range(count)]
        if shared:
            await until(lambda: all(gateways_of(one) == count and not is_degraded(one) for one in running))
        yield running


def gateways_of(running: Running) -> int:
    shared = running.gateway.shared_limits
    assert shared is not None
    return shared.gateways


def is_degraded(running: Running) -> bool:
    shared = running.gateway.shared_limits
    assert shared is not None
    return shared.degraded


async def chats(running: list[Running], count: int, **fields: object) -> list[Response]:
    """So many at once, shared out among the gateways."""
    return await asyncio.gather(*(chat(running[n % len(running)].url, **fields) for n in range(count)))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of limits."""
    return [record.getMessage() for record in caplog.records if record.name == "forebay.limits"]


def passed(answers: list[Response]) -> int:
    assert {answer.status for answer in answers} <= {200, 429}, [answer.status for answer in answers]
    return sum(answer.status == 200 for answer in answers)


async def test_two_gateways_let_exactly_the_limit_through(start_gateway: StartGateway, valkey: ValkeyServer) -> None:
    limits = {"requests_per_minute": 60}
    async with FakeEngine() as engine, gateways(start_gateway, engine, valkey.url, key_limits=limits) as running:
        answers = await chats(running, 200)
        assert passed(answers) == 60
        left = sorted(int(answer.header("x-ratelimit-remaining-requests") or -1) for answer in answers)
        assert left == [0] * 141 + list(range(1, 60))
        assert all(30 <= int(answer.header("retry-after") or 0) <= 60 for answer in answers if answer.status == 429)
        kept = [one for gateway in running for one in gateway.gateway.recorder.recent or () if one.facts is not None]
        assert {(one.facts["used"], one.facts["of"]) for one in kept if one.facts} == {(60, 60)}


async def test_tokens_are_settled_in_the_shared_counts(start_gateway: StartGateway, valkey: ValkeyServer) -> None:
    limits = {"tokens_per_minute": 1000, "tokens_per_day": 5000}
    async with FakeEngine() as engine, gateways(start_gateway, engine, valkey.url, key_limits=limits) as running:
        engine.default = Behaviour(prompt_tokens=60, tokens=40)
        for number in range(4):
            await chat(running[number % 2].url, max_tokens=500, stream=number > 1)
        await until(lambda: valkey.client.hget(COUNTS, "t") == b"400")
        assert valkey.client.hget(COUNTS, "du") == b"400"


async def test_what_runs_at_once_is_counted_over_all_gateways(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    gate = asyncio.Event()
    limits = {"concurrency": 3}
    async with FakeEngine() as engine, gateways(start_gateway, engine, valkey.url, key_limits=limits) as running:
        engine.default = Behaviour(faults=[Fault("token", gate)])
        under_way = [asyncio.create_task(chat(running[n % 2].url)) for n in range(3)]
        await engine.wait_for(lambda e: e.running == 3)
        assert [(await chat(one.url)).status for one in running] == [429, 429]
        gate.set()
        assert passed(await asyncio.gather(*under_way)) == 3
        engine.default = Behaviour()
        await until(lambda: valkey.client.hvals(COUNTS + ":runs") == [b"0", b"0"])
        assert (await chat(running[0].url)).status == 200


async def test_what_ran_at_a_gateway_that_is_gone_is_forgotten(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    async with (
        FakeEngine() as engine,
        gateways(start_gateway, engine, valkey.url, 1, key_limits={"concurrency": 1}) as running,
    ):
        await chat(running[0].url)
        await until(lambda: valkey.client.hvals(COUNTS + ":runs") == [b"0"])
        valkey.client.hset(COUNTS + ":runs", "gone", 5)
        assert (await chat(running[0].url)).status == 200


async def test_a_client_that_leaves_before_the_decision_leaves_nothing_behind(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    quick = {"key_limits": {"tokens_per_minute": 1000, "concurrency": 1}, **IMPATIENT}
    async with FakeEngine() as engine, gateways(start_gateway, engine, valkey.url, 1, **quick) as running:
        await chat(running[0].url, max_tokens=1)
        await until(lambda: valkey.client.hvals(COUNTS + ":runs") == [b"0"])
        before = valkey.client.hget(COUNTS, "t")
        valkey.stop()
        try:
            async with connect(running[0].url) as raw:
                await raw.request("POST", CHAT, chat_body(max_tokens=900), AUTH)
                await until(lambda: running[0].gateway.pipeline.running)
            await until(lambda: not running[0].gateway.pipeline.running)
        finally:
            valkey.go_on()
        await until(lambda: not is_degraded(running[0]))
        await until(lambda: valkey.client.hget(COUNTS, "t") == before)
        assert (await chat(running[0].url)).status == 200


# The counts are away


async def test_it_starts_without_the_counts_and_takes_them_up_when_they_come(
    start_gateway: StartGateway, own_valkey: ValkeyServer
) -> None:
    own_valkey.kill()
    limits = {"requests_per_minute": 5}
    async with (
        FakeEngine() as engine,
        gateways(start_gateway, engine, own_valkey.url, 1, shared=False, key_limits=limits) as running,
    ):
        assert passed(await chats(running, 3)) == 3
        assert running[0].figures()["forebay_limits_degraded"] == 1
        own_valkey.start()
        await until(lambda: not is_degraded(running[0]))
        await until(lambda: own_valkey.client.hget(COUNTS, "r") == b"3")
        assert passed(await chats(running, 10)) == 2


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_away_each_gateway_enforces_its_share_at_once_and_says_so_once(
    start_gateway: StartGateway, own_valkey: ValkeyServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"requests_per_minute": 40}
    quick = {"key_limits": limits, **IMPATIENT}
    async with FakeEngine() as engine, gateways(start_gateway, engine, own_valkey.url, **quick) as running:
        assert passed(await chats(running, 10)) == 10
        getattr(own_valkey, how)()
        took = []
        answers = []
        for _ in range(60):
            began = time.perf_counter()
            answers += await chats(running, 2)
            took.append(time.perf_counter() - began)
        assert passed(answers) == 30
        assert sorted(took)[-4] < 1.0, "only the first that find it out wait"
        assert running[0].figures()["forebay_limits_degraded"] == 1
        await until(lambda: len(told(caplog)) == 2)
        if how == "kill":
            own_valkey.start()
        else:
            own_valkey.go_on()
        await until(lambda: not any(is_degraded(one) for one in running))
        lost_with_it = 10 if how == "kill" else 0  # the counts of a server that died are gone
        assert passed(await chats(running, 20)) == lost_with_it
        assert [" away" in line for line in told(caplog)] == [True, True, False, False], "each gateway says both once"


@pytest.mark.parametrize("answer", [b"+OK\r\n", b":1\r\n", b"*2\r\n$1\r\na\r\n:1\r\n", b"*3\r\n:1\r\n:2\r\n:\r\n"])
async def test_answers_that_the_script_never_gives_are_taken_for_none(
    answer: bytes, start_gateway: StartGateway, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's server, or a connection out of step: nobody waits for ever, and nobody is told 500."""
    flags = {"key_limits": {"requests_per_minute": 20}, "cache_models": ["fake-model"], "cache_shared": True}
    async with Proxy(valkey.port) as proxy, FakeEngine() as engine:
        async with gateways(start_gateway, engine, proxy.url, 1, **flags, **IMPATIENT) as running:
            assert passed([await chat(running[0].url, seed=0, temperature=0)]) == 1
            proxy.instead = answer
            answers = [await chat(running[0].url, seed=seed, temperature=0) for seed in range(10)]
            assert passed(answers) == 10
            await until(lambda: is_degraded(running[0]))
            proxy.instead = b""
            await until(lambda: not is_degraded(running[0]))
            assert passed(await chats(running, 20, seed=0, temperature=0)) == 9
            assert not any(running[0].gateway.background.failures.values())
    assert ["away" in line for line in told(caplog)] == [True, False]


async def test_slow_counts_cost_one_time_out_and_not_one_a_request(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    async with Proxy(valkey.port) as proxy, FakeEngine() as engine:
        limits = {"requests_per_minute": 1000}
        async with gateways(start_gateway, engine, proxy.url, 1, key_limits=limits, **IMPATIENT) as running:
            proxy.delay_s = 2.0
            began = time.perf_counter()
            for _ in range(100):
                assert (await chat(running[0].url)).status == 200
            assert time.perf_counter() - began < 3.0
            proxy.delay_s = 0.0
            await until(lambda: not is_degraded(running[0]))


async def test_a_word_that_comes_late_ends_the_degradation_and_is_counted_once(
    start_gateway: StartGateway, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    quick = {"key_limits": {"requests_per_minute": 1000, "tokens_per_minute": 10_000}, **IMPATIENT}
    async with FakeEngine() as engine, gateways(start_gateway, engine, valkey.url, 1, **quick) as running:
        engine.default = Behaviour(prompt_tokens=3, tokens=2)
        valkey.stop()
        answers = asyncio.create_task(chats(running, 20))
        await until(lambda: is_degraded(running[0]))
        assert passed(await answers) == 20
        valkey.go_on()
        await until(lambda: not is_degraded(running[0]))
        assert passed(await chats(running, 10)) == 10
        await until(lambda: valkey.client.hmget(COUNTS, "r", "t") == [b"30", b"150"])
        assert told(caplog) == []


async def test_counts_that_answer_with_an_error_are_away(start_gateway: StartGateway, own_valkey: ValkeyServer) -> None:
    limits = {"requests_per_minute": 10}
    async with (
        FakeEngine() as engine,
        gateways(start_gateway, engine, own_valkey.url, 1, key_limits=limits) as running,
    ):
        await chat(running[0].url)
        own_valkey.client.config_set("maxmemory", 1)
        assert passed(await chats(running, 20)) == 9
        assert is_degraded(running[0])
        own_valkey.client.config_set("maxmemory", 0)
        await until(lambda: not is_degraded(running[0]))
        await until(lambda: own_valkey.client.hget(COUNTS, "r") == b"10")
        assert running[0].figures()["forebay_limits_mended_total"] == 0


POISON: dict[str, list[tuple[object, ...]]] = {
    "another type": [("DEL", COUNTS), ("SET", COUNTS, "not a hash")],
    "another type of what runs": [("DEL", COUNTS + ":runs"), ("SADD", COUNTS + ":runs", "x")],
    "a count that is none": [("HSET", COUNTS, "r", "many")],
    "requests without half seconds": [("DEL", COUNTS), ("HSET", COUNTS, "r", 10**9)],
    "half seconds without end": [("HSET", COUNTS, "o", -(10**14))],
    "half seconds that never come": [("HSET", COUNTS, "o", 10**14, "n", 10**14)],
    "half seconds that are no numbers": [("HSET", COUNTS, "o", "nan", "n", "inf")],
    "a day that never ends": [("HSET", COUNTS, "d", "zzz")],
    "tokens that are none": [("HSET", COUNTS, "mu", "much")],
}


@pytest.mark.parametrize("poison", POISON)
async def test_what_is_no_count_under_an_accounts_key_is_deleted_and_harms_nobody(
    start_gateway: StartGateway, valkey: ValkeyServer, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"requests_per_minute": 20, "tokens_per_month": 10**6, "concurrency": 20}
    keys = {"api_keys": ("sk-test", "sk-other")}
    async with (
        FakeEngine() as engine,
        gateways(start_gateway, engine, valkey.url, 1, key_limits=limits, **keys) as (one,),
    ):
        for _ in range(2):
            assert (await chat(one.url)).status == 200
        await until(lambda: valkey.client.hvals(COUNTS + ":runs") == [b"0"])
        for command in POISON[poison]:
            valkey.client.execute_command(*command)
        answers = await chats([one], 30)
        assert passed(answers) == 18, "what this gateway has counted itself still holds"
        other = await fetch(one.url, "POST", CHAT, chat_body(), authorization="Bearer sk-other")
        assert (other.status, other.header("x-ratelimit-remaining-requests")) == (200, "19")
        assert not is_degraded(one)
        assert one.figures()["forebay_limits_mended_total"] == 1
        (line,) = [record for record in caplog.records if record.name == "forebay.limits"]
        assert line.__dict__["of"] == COUNTS.removeprefix("forebay:{limits}:")
        await until(lambda: valkey.client.hvals(COUNTS + ":runs") == [b"0"])
        assert int(valkey.client.hget(COUNTS, "r") or 0) in (
            17,
            18,
        )  # the one that found it is counted with what is owed


async def test_what_is_no_count_is_deleted_when_a_correction_finds_it(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    gate = asyncio.Event()
    limits = {"tokens_per_minute": 10_000, "concurrency": 5}
    async with FakeEngine() as engine, gateways(start_gateway, engine, valkey.url, 1, key_limits=limits) as (one,):
        engine.default = Behaviour(prompt_tokens=30, tokens=50, faults=[Fault("token", gate)])
        under_way = asyncio.create_task(chat(one.url, max_tokens=10))
        await engine.wait_for(lambda e: e.running == 1)
        valkey.client.delete(COUNTS, COUNTS + ":runs")
        valkey.client.set(COUNTS, "not a hash")
        gate.set()
        assert (await under_way).status == 200
        await until(lambda: valkey.client.hvals(COUNTS + ":runs") == [b"0"])
        await until(lambda: one.figures()["forebay_limits_mended_total"] == 1)
        assert not is_degraded(one)


async def test_the_list_of_gateways_is_made_anew_where_it_is_none(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    async with (
        FakeEngine() as engine,
        gateways(start_gateway, engine, valkey.url, key_limits={"requests_per_minute": 5}) as running,
    ):
        valkey.client.set(GATEWAYS, "not a set")
        await until(lambda: valkey.client.type(GATEWAYS) == b"zset" and valkey.client.zcard(GATEWAYS) == 2)
        assert passed(await chats(running, 10)) == 5
        assert not any(is_degraded(one) for one in running)


async def test_a_flushed_server_lets_no_gateway_have_more_than_the_limit(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    limits = {"requests_per_minute": 20}
    async with FakeEngine() as engine, gateways(start_gateway, engine, valkey.url, 1, key_limits=limits) as running:
        first = passed(await chats(running, 15))
        valkey.client.flushall()
        valkey.client.script_flush()
        assert first + passed(await chats(running, 40)) == 20
        await until(lambda: not is_degraded(running[0]))


async def test_flapping_counts_fail_no_request_and_lose_no_correction(
    start_gateway: StartGateway, valkey: ValkeyServer
) -> None:
    async with Proxy(valkey.port) as proxy, FakeEngine() as engine:
        engine.default = Behaviour(prompt_tokens=3, tokens=2)
        limits = {"tokens_per_minute": 100_000, "tokens_per_day": 100_000}
        async with gateways(start_gateway, engine, proxy.url, 1, key_limits=limits, **IMPATIENT) as running:
            answers: list[Response] = []
            for turn in range(6):
                proxy.drop() if turn % 2 == 0 else proxy.accept()
                until_s = time.monotonic() + 0.3
                while time.monotonic() < until_s:
                    answers += await chats(running, 4, max_tokens=20)
            proxy.accept()
            await until(lambda: not is_degraded(running[0]))
            count = passed(answers)
            assert count == len(answers)
            await until(lambda: int(valkey.client.hget(COUNTS, "t") or 0) <= 5 * count + 10 * 100)
            await until(lambda: int(valkey.client.hget(COUNTS, "du") or 0) >= 5 * count)
            assert running[0].figures()["forebay_limits_settlements_lost_total"] == 0


async def test_what_is_owed_is_sent_before_the_gateway_ends(start_gateway: StartGateway, valkey: ValkeyServer) -> None:
    async with FakeEngine() as engine:
        engine.default = Behaviour(prompt_tokens=3, tokens=2)
        async with gateways(start_gateway, engine, valkey.url, 1, key_limits={"tokens_per_minute": 10_000}) as running:
            await chats(running, 20, max_tokens=100)
        assert valkey.client.hget(COUNTS, "t") == b"100"
