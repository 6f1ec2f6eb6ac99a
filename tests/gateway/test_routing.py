"""Three engines behind one gateway: which of them is asked."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay.policy.routing import BOUND, FLOOR_TOKENS
from tests.gateway.calls import CHAT, chat, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, fetch

CONVERSATIONS = 24


class Trio:
    """A gateway and its three engines."""

    def __init__(self, running: Running, engines: tuple[FakeEngine, ...]) -> None:
        self.running = running
        self.engines = engines
        self.replicas = list(running.gateway.replicas)

    async def turn(self, conversation: int, number: int = 0, **fields: Any) -> Response:
        """A conversation's turn, with all that was said before."""
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"start {conversation}"}]
        for turn in range(number):
            messages += [{"role": "assistant", "content": f"answer {turn}"}, {"role": "user", "content": f"go {turn}"}]
        answer = await chat(self.running.url, messages=messages, **fields)
        assert answer.status == 200
        return answer

    def homes(self) -> dict[str, set[FakeEngine]]:
        """The engines that each conversation was with, by how it starts; forgets them."""
        found: dict[str, set[FakeEngine]] = defaultdict(set)
        for engine in self.engines:
            for record in engine.calls(CHAT):
                found[record.body["messages"][1]["content"]].add(engine)
            engine.requests.clear()
        return found

    async def ready(self, count: int) -> None:
        while sum(replica.ready for replica in self.replicas) != count:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def three(start_gateway: StartGateway, *groups: str, **flags: Any) -> AsyncIterator[Trio]:
    """Three engines, in these groups (none: one group) and a gateway before them."""
    async with FakeEngine() as one, FakeEngine() as two, FakeEngine() as last:
        engines = (one, two, last)
        urls = [engine.url + group for engine, group in zip(engines, groups or ("",) * 3, strict=True)]
        async with start_gateway(*urls, **flags) as running:
            trio = Trio(running, engines)
            async with asyncio.timeout(20):
                await trio.ready(3)
            yield trio


async def all_turns(trio: Trio, turns: int = 3) -> dict[str, set[FakeEngine]]:
    async def talk(conversation: int) -> None:
        for number in range(turns):
            await trio.turn(conversation, number, stream=bool(number % 2))

    await asyncio.gather(*[talk(conversation) for conversation in range(CONVERSATIONS)])
    return trio.homes()


async def test_conversations_stay_on_one_replica_each_and_move_together_when_it_dies(
    start_gateway: StartGateway,
) -> None:
    async with three(start_gateway, routing="prefix") as trio:
        before = await all_turns(trio)
        assert len(before) == CONVERSATIONS
        assert all(len(engines) == 1 for engines in before.values()), "one replica a conversation"
        assert len(set.union(*before.values())) > 1, "and not the same for all"
        dead = next(iter(before["start 0"]))
        await dead.stop()
        async with asyncio.timeout(20):
            await trio.ready(2)
        during = await all_turns(trio)
        for start, engines in during.items():
            assert len(engines) == 1
            assert (engines == before[start]) == (dead not in before[start]), "only the dead one's have moved"
        await dead.start()
        async with asyncio.timeout(20):
            await trio.ready(3)
        assert await all_turns(trio) == before, "they come home"


async def test_before_a_death_is_known_a_retry_goes_where_the_conversation_will_live(
    start_gateway: StartGateway,
) -> None:
    async with three(start_gateway, routing="prefix", health_interval_s=60.0, show_replica="always") as trio:
        at_home = (await trio.turn(1)).header("x-forebay-replica")
        dead = next(engine for engine in trio.engines if engine.url == at_home)
        await dead.stop()
        retried = [(await trio.turn(1, number)).header("x-forebay-replica") for number in range(3)]
        assert len(set(retried)) == 1
        assert at_home not in retried


async def test_round_robin_spreads_evenly(start_gateway: StartGateway) -> None:
    async with three(start_gateway, routing="round_robin") as trio:
        for _ in range(30):
            await trio.turn(1)
        assert [len(engine.calls(CHAT)) for engine in trio.engines] == [10, 10, 10]


async def test_a_long_request_counts_for_more_than_a_short_one(start_gateway: StartGateway) -> None:
    async with three(start_gateway, routing="least_outstanding") as trio:
        go_on = asyncio.Event()
        for engine in trio.engines:
            engine.default = lambda record: Behaviour(faults=[Fault("head", go_on)], tokens=1)
        long = asyncio.create_task(trio.turn(0, max_tokens=1000))
        await running(trio, 1)
        short = [asyncio.create_task(trio.turn(number, max_tokens=10)) for number in range(1, 5)]
        await running(trio, 5)
        assert sorted(engine.running for engine in trio.engines) == [1, 2, 2]
        go_on.set()
        await asyncio.gather(long, *short)
        assert [replica.load for replica in trio.replicas] == [0, 0, 0]


async def test_a_hot_conversation_spills_over_by_the_bound(start_gateway: StartGateway) -> None:
    async with three(start_gateway, routing="prefix") as trio:
        go_on = asyncio.Event()
        for engine in trio.engines:
            engine.default = lambda record: Behaviour(faults=[Fault("head", go_on)], tokens=1)
        hot = [asyncio.create_task(trio.turn(1, max_tokens=1000)) for _ in range(3)]
        await running(trio, 3)
        assert sorted(engine.running for engine in trio.engines) == [0, 0, 3], "a few are no reason to move"
        hot += [asyncio.create_task(trio.turn(1, max_tokens=1000)) for _ in range(21)]
        await running(trio, 24)
        loads = [replica.load for replica in trio.replicas]
        assert max(loads) <= max(BOUND * sum(loads) / 3, FLOOR_TOKENS) + 1100
        assert min(engine.running for engine in trio.engines) >= 4
        go_on.set()
        await asyncio.gather(*hot)
        assert [replica.load for replica in trio.replicas] == [0, 0, 0]


async def running(trio: Trio, count: int) -> None:
    async with asyncio.timeout(20):
        while sum(engine.running for engine in trio.engines) != count:
            await asyncio.sleep(0.002)


async def test_a_canary_gets_its_share_of_conversations_and_keeps_them(start_gateway: StartGateway) -> None:
    weights = {"default": 80, "canary": 20}
    async with three(start_gateway, "", "", "#canary", routing="prefix", group_weights=weights) as trio:
        *_, canary = trio.engines
        for number in range(2):
            for conversation in range(200):
                await trio.turn(conversation, number)
        homes = trio.homes()
        assert all(len(engines) == 1 for engines in homes.values())
        assert 0.15 < sum(canary in engines for engines in homes.values()) / len(homes) < 0.25
        trio.running.gateway.replicas.weights["canary"] = 0
        trio.running.gateway.replicas.refresh()
        for conversation in range(20):
            await trio.turn(conversation)
        assert canary.calls(CHAT) == []
        for engine in trio.engines[:2]:
            await engine.stop()
        async with asyncio.timeout(20):
            await trio.ready(1)
        await trio.turn(1)
        assert len(canary.calls(CHAT)) == 1, "nobody else can"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_replica_is_named_only_where_it_shall_be(stream: bool, start_gateway: StartGateway) -> None:
    async with three(start_gateway, show_replica="always") as trio:
        named = (await trio.turn(1, stream=stream)).header("x-forebay-replica")
        assert [engine.url for engine in trio.engines if engine.calls(CHAT)] == [named]
        for engine in trio.engines:
            engine.default = lambda record: Behaviour(status=400)
        assert (await chat(trio.running.url)).header("x-forebay-replica") in [engine.url for engine in trio.engines]
    async with three(start_gateway) as trio:
        assert (await trio.turn(1, stream=stream)).header("x-forebay-replica") is None
    keys = {"api_keys": ("sk-test", "sk-ops"), "admin_keys": ("sk-ops",)}
    async with three(start_gateway, show_replica="admin", **keys) as trio:
        assert (await trio.turn(1, stream=stream)).header("x-forebay-replica") is None
        body = chat_body(stream=stream)
        told = await fetch(trio.running.url, "POST", CHAT, body, authorization="Bearer sk-ops")
        assert told.header("x-forebay-replica") in [engine.url for engine in trio.engines]


async def test_the_health_page_tells_group_and_load(start_gateway: StartGateway) -> None:
    async with three(start_gateway, "", "#next", "#canary") as trio:
        shown = trio.running.gateway.status()["replicas"]
        assert {(replica["group"], replica["load_tokens"]) for replica in shown} == {
            ("default", 0),
            ("next", 0),
            ("canary", 0),
        }
        assert chat_body()["model"] in shown[0]["models"]
