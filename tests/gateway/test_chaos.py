"""Whatever befalls the engines: no request is lost, none is answered twice or wrongly, and nothing is left behind.

The seed is printed; FOREBAY_CHAOS_SEED has the same requests and the same misfortunes again.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from random import Random
from time import monotonic
from typing import Any

import pytest

from tests.gateway.chaos import TOKEN_S, Call, ChangingSource, Misfortune, call_all
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.waiting import until

SEED = int(os.environ.get("FOREBAY_CHAOS_SEED", Random().randrange(1_000_000)))
REQUESTS = 10_000
CALLERS = 64
QUICK: dict[str, Any] = {
    "routing": "prefix",
    "engine_stall_s": 0.8,
    "breaker_pause_s": 0.5,
    "health_timeout_s": 0.5,
    "first_byte_timeout_s": 20.0,
    "takeover_attempts": 16,  # on a busy machine a stream outlives eight engines now and then
}


@asynccontextmanager
async def pool_of(size: int, **options: Any) -> AsyncIterator[list[FakeEngine]]:
    async with AsyncExitStack() as stack:
        options = {"tagged": True, "tokens": 64, "token_delay_s": TOKEN_S, **options}
        yield [await stack.enter_async_context(FakeEngine(**options)) for _ in range(size)]


async def all_ready(running: Running, engines: list[FakeEngine]) -> None:
    wanted = {engine.url for engine in engines}
    await until(lambda: {replica.name for replica in running.gateway.replicas if replica.ready} == wanted)


async def nothing_is_left(running: Running, engines: list[FakeEngine]) -> None:
    """Every counter is back at nothing, on the gateway's side and on the engines'."""
    pipeline = running.gateway.pipeline
    await until(lambda: not pipeline.running and not running.gateway.connections)
    assert pipeline.admission.under_way == 0
    await all_ready(running, engines)
    for replica in running.gateway.replicas:
        assert (replica.in_flight, replica.load) == (0, 0), replica
    for engine in engines:
        await engine.wait_for(lambda e: e.running == e.waiting == 0)
        assert engine.violations == []


async def serves(running: Running, count: int = 100, callers: int = 16) -> None:
    """The gateway answers as if nothing had been."""
    drawn = (Call.drawn(-1, number) for number in range(10 * count))
    fine = [call for call in drawn if call.manner == "patient"][:count]
    assert await call_all(running.url, fine, callers) == {"answered": count}


async def end_of(running: Running, before: "set[asyncio.Task[Any]]") -> None:
    """No task of ours outlives the gateway, and none failed."""
    await running.stop()
    assert not {task for task in asyncio.all_tasks() - before if "forebay" in str(task.get_coro())}
    errors = [line["message"] for line in running.log_lines() if line["level"] == "error"]
    assert set(errors) <= {"replica stalled"}


def report(running: Running, ended: Counter[str], befell: Counter[str], took_s: float) -> None:
    figures = running.figures()
    names = ("forebay_takeovers_total", "forebay_retries_total", "forebay_replica_stalls_total")
    counts = {name: int(sum(value for key, value in figures.items() if key.startswith(name))) for name in names}
    print(f"FOREBAY_CHAOS_SEED={SEED} {took_s:.1f} s", dict(ended), counts, dict(befell), sep="\n")


@pytest.mark.timeout(240)
async def test_ten_thousand_requests_while_engines_die_hang_lie_and_are_replaced(start_gateway: StartGateway) -> None:
    print(f"FOREBAY_CHAOS_SEED={SEED}")
    before = asyncio.all_tasks()
    source = ChangingSource()
    async with pool_of(4) as engines, start_gateway(sources=[source], ready=False, **QUICK) as running:
        source.now(set(engines))
        await all_ready(running, engines)
        pool = set(engines)
        fates = [Misfortune(engine, Random(f"{SEED}/{n}"), source, pool) for n, engine in enumerate(engines)]
        for fate in fates:
            fate.gone = lambda url: url not in {replica.name for replica in running.gateway.replicas}
        befalling = [asyncio.create_task(fate.run()) for fate in fates]
        began = monotonic()
        ended = await call_all(running.url, [Call.drawn(SEED, number) for number in range(REQUESTS)], CALLERS)
        took_s = monotonic() - began
        for fate in fates:
            fate.going = False
        await asyncio.gather(*befalling)
        report(running, ended, sum((fate.befell for fate in fates), Counter()), took_s)
        assert ended.total() == REQUESTS
        await nothing_is_left(running, engines)
        await serves(running)
        await nothing_is_left(running, engines)
        await end_of(running, before)
    # 502: two engines, one after the other, gave answers that are none, or gave the request up. 504: they
    # stalled under it.
    told = {
        "refused:503",
        "refused:502:upstream_invalid_response",
        "refused:502:engine_aborted",
        "refused:504:upstream_timeout",
        "broken:unresumable",
    }
    refused = Counter({how: count for how, count in ended.items() if how not in ("answered", "left")})
    assert all(any(how.startswith(one) for one in told) for how in refused), ended
    assert refused.total() < 0.25 * ended["answered"], ended  # a few in a thousand, where the machine is not busy


async def test_when_all_engines_die_at_once_what_they_held_waits_until_they_are_back(
    start_gateway: StartGateway,
) -> None:
    """They may die one after the other under the same request, so it may be taken over more often than by default."""
    drawn = (Call.drawn(SEED, number) for number in range(2000))
    calls = [call for call in drawn if call.manner == "patient" and call.resumable and call.tokens >= 8][:200]
    async with (
        pool_of(4) as engines,
        start_gateway(*[engine.url for engine in engines], routing="prefix", takeover_attempts=8) as running,
    ):
        await all_ready(running, engines)
        gate = asyncio.Event()
        for engine in engines:  # nobody is done before all have begun, however busy this machine is
            engine.default = Behaviour(faults=[Fault("token", gate, after=4)])
        asking = asyncio.create_task(call_all(running.url, calls, len(calls)))
        await until(lambda: sum(engine.running for engine in engines) == len(calls))
        await asyncio.gather(*(engine.stop() for engine in engines))
        gate.set()
        await until(lambda: not running.gateway.replicas.ready)
        assert len(running.gateway.pipeline.running) == len(calls)
        for engine in engines:
            await engine.start()
        assert await asking == {"answered": len(calls)}
        await nothing_is_left(running, engines)


async def test_an_engine_that_accepts_and_never_answers_costs_nobody_an_answer(start_gateway: StartGateway) -> None:
    drawn = (Call.drawn(SEED, number) for number in range(2000))
    calls = [call for call in drawn if call.manner == "patient"][:400]
    async with pool_of(4) as engines, start_gateway(*[engine.url for engine in engines], **QUICK) as running:
        await all_ready(running, engines)
        deaf = engines[0]
        deaf.on_connect = "ignore"
        assert await call_all(running.url, calls, CALLERS) == {"answered": len(calls)}
        assert next(replica.stalls for replica in running.gateway.replicas if replica.name == deaf.url) == 1
        deaf.on_connect = "serve"
        await nothing_is_left(running, engines)


async def test_a_storm_of_callers_that_leave_takes_no_place_with_it(start_gateway: StartGateway) -> None:
    before = asyncio.all_tasks()
    calls = [replace(Call.drawn(SEED, number), manner="leaves") for number in range(5000)]
    limits = {"max_upstream_connections": 10, "takeover_wait_s": 0}
    async with pool_of(2, token_delay_s=0.002) as engines:
        async with start_gateway(*[engine.url for engine in engines], **limits) as running:
            await all_ready(running, engines)
            assert await call_all(running.url, calls, CALLERS) == {"left": len(calls)}
            await nothing_is_left(running, engines)
            await serves(running, callers=8)
            await nothing_is_left(running, engines)
            await end_of(running, before)
