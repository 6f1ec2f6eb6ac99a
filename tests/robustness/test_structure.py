"""C12: what engines compile is bounded a request, and a tenant's requests that need it are bounded together."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.gateway.calls import CHAT, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, connect, fetch

ALICE, BOB = "sk-alice", "sk-bob"
SCHEMA: dict[str, Any] = {"response_format": {"type": "json_object"}}
FLAGS: dict[str, Any] = {"api_keys": (ALICE, BOB), "max_structured_requests": 2}


async def ask(running: Running, key: str, **fields: Any) -> Response:
    return await fetch(running.url, "POST", CHAT, chat_body(max_tokens=1, **fields), authorization=f"Bearer {key}")


async def test_a_tenant_has_so_many_structured_requests_at_once_and_holds_up_nobody_else(
    start_gateway: StartGateway,
) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, **FLAGS) as running:
        engine.default = lambda record: Behaviour(tokens=1, faults=[Fault("head", gate)])
        tasks = [asyncio.create_task(ask(running, ALICE, **SCHEMA)) for _ in range(2)]
        await engine.wait_for(lambda e: e.running == 2)
        refused = await ask(running, ALICE, **SCHEMA)
        assert (refused.status, error_of(refused)["code"]) == (429, "too_many_structured_requests")
        assert int(refused.header("retry-after") or 0) >= 1
        tasks += [asyncio.create_task(ask(running, BOB, **SCHEMA)), asyncio.create_task(ask(running, ALICE))]
        await engine.wait_for(lambda e: e.running == 4)
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 4
        assert (await ask(running, ALICE, **SCHEMA)).status == 200, "places come back"
        assert running.figures()['forebay_limit_refusals_total{limit="structured",scope="tenant"}'] == 1


async def test_a_flood_of_them_is_bounded_and_leaves_nothing_behind(start_gateway: StartGateway) -> None:
    """Some leave early, some fail at the engine; another tenant's are all answered meanwhile."""
    async with FakeEngine(token_delay_s=0.002) as engine, start_gateway(engine.url, **FLAGS) as running:
        most, statuses = 0, Counter[int]()

        async def flood(number: int) -> None:
            nonlocal most
            async with connect(running.url) as raw:
                headers = {"authorization": f"Bearer {ALICE}"}
                await raw.request("POST", CHAT, chat_body(max_tokens=2, **SCHEMA), headers)
                if number % 5 == 0:
                    return
                statuses[(await raw.read_response("POST")).status] += 1
            most = max(most, engine.running)

        engine.default = lambda record: Behaviour(status=500) if len(engine.requests) % 7 == 0 else Behaviour(tokens=2)
        for _ in range(10):
            await asyncio.gather(*(flood(number) for number in range(20)))
        assert set(statuses) <= {200, 429, 503}
        assert min(statuses[200], statuses[429]) >= 10
        assert most <= 2
        await engine.wait_for(lambda e: e.running == 0)
        engine.default = lambda record: Behaviour(tokens=1)
        assert [(await ask(running, key, **SCHEMA)).status for key in (BOB, ALICE, ALICE)] == [200] * 3
        assert repr(running.gateway.pipeline.compiling) == "<Compiling {}>"


@pytest.mark.parametrize("flags", [{"api_keys": (ALICE,)}, {"max_structured_requests": 0}])
async def test_one_tenant_alone_or_no_bound_set_are_not_held(
    start_gateway: StartGateway, flags: dict[str, Any]
) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, **{**FLAGS, **flags}) as running:
        engine.default = lambda record: Behaviour(tokens=1, faults=[Fault("head", gate)])
        tasks = [asyncio.create_task(ask(running, ALICE, **SCHEMA)) for _ in range(4)]
        await engine.wait_for(lambda e: e.running == 4)
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 4


async def test_a_pattern_that_takes_long_to_compile_reaches_no_engine(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **FLAGS) as running:
        for pattern, status in (("(a+)+$", 400), ("a?" * 200, 400), (r"^\d{4}-\d\d(-\d\d)?$", 200)):
            answer = await ask(running, ALICE, structured_outputs={"regex": pattern})
            assert answer.status == status, pattern
            if status == 400:
                assert error_of(answer)["param"] == "structured_outputs"
        assert len(engine.calls(CHAT)) == 1
