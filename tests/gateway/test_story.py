"""What a request's steps tell of it."""

import asyncio
from typing import Any

from forebay.gateway.exchange import Exchange
from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch
from tests.waiting import all_ready

SECRET = "the prompt's own words"


class Stories(list[Exchange]):
    """The exchanges that are over, oldest first."""

    def __init__(self, running: Running) -> None:
        recorder = running.gateway.recorder
        finished = recorder.finished

        def keep(exchange: Exchange, *end: Any) -> None:
            self.append(exchange)
            finished(exchange, *end)

        recorder.finished = keep  # type: ignore[method-assign]

    def last(self) -> list[tuple[Any, ...]]:
        """The newest one's steps, without their times, which must not go back."""
        exchange = self[-1]
        times = [exchange.started_at, *(step[0] for step in exchange.steps)]
        assert times == sorted(times)
        return [step[1:] for step in exchange.steps]


async def test_most_requests_have_one_step(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        stories = Stories(running)
        await chat(running.url, stream=True)
        assert stories.last() == [("attempt", engine.url, "only", ())]
        await fetch(running.url, "POST", CHAT, chat_body(model="none"), **AUTH)
        assert stories.last() == []


async def test_who_waits_is_told_where_in_line_and_for_what(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    keys = ("sk-test", "sk-other")
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1, api_keys=keys) as running:
        stories = Stories(running)
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        asking = []
        for number, key in enumerate(("sk-test", "sk-test", "sk-test", "sk-other")):
            head = {"authorization": f"Bearer {key}"}
            asking.append(asyncio.create_task(fetch(running.url, "POST", CHAT, chat_body(), **head)))
            while running.gateway.pipeline.admission.under_way <= number:
                await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(*asking)
        told = {step[2:4] for exchange in stories for step in exchange.steps if step[1] == "queued"}
        assert told == {(1, "engines_full"), (2, "own_requests_first"), (2, "others_first")}
        names = [[step[1] for step in exchange.steps] for exchange in stories]
        assert sorted(names) == [["attempt"], *[["queued", "admitted", "attempt"]] * 3]


async def test_a_stream_that_was_cut_says_where_it_went_on(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            stories = Stories(running)
            cuts = [Behaviour(faults=[Fault("token", "reset", after=3)])]
            one.default = two.default = lambda _: cuts.pop() if cuts else Behaviour()
            await chat(running.url, stream=True)
            first, failed, second, resumed = stories.last()
            assert first[::2] == ("attempt", "least_outstanding")
            assert failed[:2] == ("failed", "closed")
            assert second == ("attempt", ({one.url, two.url} - {first[1]}).pop(), *second[2:])
            assert second[2:] == ("least_outstanding", ((first[1], "has just failed"),))
            assert resumed == ("resumed", stories[-1].events_out - 6), "five of eight tokens, and the end"


async def test_an_engine_s_own_words_are_not_told(start_gateway: StartGateway) -> None:
    slow = {"token_delay_s": 0.002}
    async with FakeEngine(**slow) as one, FakeEngine(**slow) as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        stories = Stories(running)
        said: list[Behaviour] = [Behaviour(status=500, body={"error": {"message": SECRET, "code": SECRET}})]
        one.default = two.default = lambda _: said.pop() if said else Behaviour()
        await chat(running.url, messages=[{"role": "user", "content": SECRET}])
        attempt, failed, again = stories.last()
        assert (attempt[0], again[0]) == ("attempt", "attempt")
        assert failed == ("failed", "engine_error", "answered 500")
        said.append(Behaviour(insert={2: b'data: {"error":{"message":"%s","code":500}}\n\n' % SECRET.encode()}))
        await chat(running.url, stream=True, messages=[{"role": "user", "content": SECRET}])
        assert [step[0] for step in stories.last()] == ["attempt", "failed", "attempt", "resumed"]
        assert SECRET not in str([exchange.steps for exchange in stories])


async def test_a_connection_that_had_ended_is_a_step_of_its_own(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        stories = Stories(running)
        engine.script(Behaviour(then="drop_on_next"))
        async with connect(running.url) as client:
            for _ in range(2):
                await client.request("POST", CHAT, chat_body(), AUTH)
                assert (await client.read_response("POST")).status == 200
        assert [step[:2] for step in stories.last()] == [
            ("attempt", engine.url),
            ("failed", "stale"),
            ("attempt", engine.url),
        ]
        assert stories[-1].attempts == 1


async def test_where_no_replica_can_be_asked_each_says_why(start_gateway: StartGateway) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url) as running:
        await all_ready(running)
        stories = Stories(running)
        await one.stop()
        await two.stop()
        while running.gateway.replicas.ready:
            await asyncio.sleep(0.005)
        assert (await chat(running.url)).status == 503
        (told,) = stories.last()
        assert told[0] == "unrouted"
        assert set(told[1]) == {(one.url, "not ready"), (two.url, "not ready")}


async def test_what_the_cache_said_is_told(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, cache_models=("*",)) as running:
        stories = Stories(running)
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        leading, following = (asyncio.create_task(chat(running.url, temperature=0)) for _ in range(2))
        while not any(step[2:] == ("waits",) for x in running.gateway.pipeline.running for step in x.steps):
            await asyncio.sleep(0.002)
        gate.set()
        await asyncio.gather(leading, following)
        await chat(running.url, temperature=0)
        told = [[step[1:] for step in exchange.steps] for exchange in stories]
        assert sorted(told[:2]) == [
            [("cache", "miss"), ("attempt", engine.url, "only", ())],
            [("cache", "waits"), ("cache", "hit")],
        ]
        assert told[2] == [("cache", "hit")]
