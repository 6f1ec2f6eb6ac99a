"""An engine that has work and makes no progress is found; one that is slow, idle or badly read is left alone."""

import asyncio
from time import monotonic

from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch, text_of, token_numbers
from tests.waiting import all_ready

STALL_S = 0.6


async def test_a_hung_engine_is_left_within_seconds_and_its_callers_are_answered_by_another(
    start_gateway: StartGateway,
) -> None:
    """Its sockets accept and its /health says 200 all the while."""
    async with (
        FakeEngine() as good,
        FakeEngine() as hung,
        start_gateway(good.url, hung.url, engine_stall_s=STALL_S) as running,
    ):
        await all_ready(running)
        hung.default = lambda record: Behaviour(faults=[Fault("head", "hang")])
        began = monotonic()
        answers = await asyncio.gather(*[chat(running.url, stream=bool(number % 2)) for number in range(8)])
        assert {answer.status for answer in answers} == {200}
        assert monotonic() - began < 10 * STALL_S
        replica = next(r for r in running.gateway.replicas if r.name == hung.url)
        assert not replica.ready
        assert "stalled" in replica.why
        seen = len(hung.calls(CHAT))
        assert {(await chat(running.url)).status for _ in range(6)} == {200}
        assert len(hung.calls(CHAT)) == seen
        assert running.figures()[f'forebay_replica_stalls_total{{replica="{hung.url}"}}'] == 1


async def test_an_engine_that_hangs_out_of_rotation_keeps_no_caller_either(start_gateway: StartGateway) -> None:
    async with (
        FakeEngine() as good,
        FakeEngine() as hung,
        start_gateway(good.url, hung.url, engine_stall_s=STALL_S) as running,
    ):
        await all_ready(running)
        gate = asyncio.Event()
        hung.default = good.default = lambda record: Behaviour(faults=[Fault("head", gate)])
        asked = [asyncio.create_task(chat(running.url)) for _ in range(4)]
        await hung.wait_for(lambda e: e.running == 2)
        hung.on("/health", Behaviour(status=500))
        hung.on("/v1/models", Behaviour(status=500))
        replica = next(r for r in running.gateway.replicas if r.name == hung.url)
        while replica.ready:
            await asyncio.sleep(0.005)
        assert hung.running == 2
        hung.default = lambda record: Behaviour(faults=[Fault("head", "hang")])
        hung.moving.clear()
        gate.set()
        good.default = Behaviour()
        assert [(await answer).status for answer in asked] == [200] * 4


async def test_it_is_taken_in_again_only_once_it_has_generated(start_gateway: StartGateway) -> None:
    flags = {"engine_stall_s": STALL_S, "health_timeout_s": 0.3, "takeover_attempts": 0}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.default = lambda record: Behaviour(faults=[Fault("head", "hang")])
        assert (await chat(running.url)).status == 504
        replica = next(iter(running.gateway.replicas))
        await engine.wait_for(lambda e: len(e.calls("/v1/completions")) >= 2)  # asked, and hung again
        assert not replica.ready
        engine.default = lambda record: Behaviour()
        async with asyncio.timeout(20):
            while not replica.ready:
                await asyncio.sleep(0.01)
        assert (await chat(running.url)).status == 200


async def test_a_stream_that_hangs_ends_with_an_error_as_soon_as_that_is_known(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, engine_stall_s=STALL_S) as running:
        engine.script(Behaviour(faults=[Fault("token", "hang", after=3)]))
        began = monotonic()
        answer = await chat(running.url, stream=True, logprobs=True)
        assert monotonic() - began < 10 * STALL_S
        assert token_numbers(text_of(answer.events)) == [0, 1, 2]
        assert b'"code":"upstream_timeout"' in answer.body


async def test_an_engine_that_is_slow_but_moves_is_left_alone(start_gateway: StartGateway) -> None:
    """The slow request says nothing for several stall times, while the engine's own counter moves for others'."""
    async with FakeEngine(token_delay_s=0.2) as engine, start_gateway(engine.url, engine_stall_s=STALL_S) as running:
        await all_ready(running)
        slow = Behaviour(head_delay_s=4 * STALL_S, tokens=1)
        engine.script(slow)
        waiting = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 1)
        async with connect(engine.url) as elsewhere:  # not through this gateway: only the counter tells
            await elsewhere.request("POST", CHAT, chat_body(max_tokens=32, stream=True))
            assert (await waiting).status == 200
        assert not any("stalled" in replica.why for replica in running.gateway.replicas)


async def test_a_client_that_does_not_read_is_no_stall_of_the_engine(start_gateway: StartGateway) -> None:
    event = b'data: {"x":"' + b"y" * 10_000 + b'"}\n\n'
    many = dict.fromkeys(range(2000), event)
    async with (
        FakeEngine(tokens=2000, send_buffer_bytes=65_536) as engine,
        start_gateway(engine.url, engine_stall_s=STALL_S) as running,
        connect(running.url, receive_buffer_bytes=4096) as raw,
    ):
        engine.script(Behaviour(tokens=2000, insert=many))
        await raw.request("POST", CHAT, chat_body(stream=True, max_tokens=2000), AUTH)
        replica = next(iter(running.gateway.replicas))
        until = monotonic() + 4 * STALL_S
        while monotonic() < until:
            assert replica.ready
            await asyncio.sleep(0.05)
        assert engine.running == 1


async def test_long_work_of_the_front_alone_is_no_stall(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, engine_stall_s=0.2) as running:
        engine.script(Behaviour(head_delay_s=1.0))
        assert (await fetch(running.url, "POST", "/tokenize", {"prompt": "x"}, **AUTH)).status == 200
        assert next(iter(running.gateway.replicas)).ready


async def test_an_idle_engine_that_hangs_is_found_by_asking_it_for_a_token(start_gateway: StartGateway) -> None:
    flags = {"engine_stall_s": 0.3, "idle_probe_s": 0.2, "health_interval_s": 0.05}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        replica = next(iter(running.gateway.replicas))
        await engine.wait_for(lambda e: len(e.calls("/v1/completions")) >= 2)  # asked again and again
        assert replica.ready
        engine.on("/v1/completions", Behaviour(faults=[Fault("token", "hang")]))
        async with asyncio.timeout(20):
            while replica.ready:
                await asyncio.sleep(0.01)
        assert "no token" in replica.why
        assert running.figures()[f'forebay_replica_stalls_total{{replica="{replica.name}"}}'] == 1
        engine.on("/v1/completions", None)
        async with asyncio.timeout(20):
            while not replica.ready:
                await asyncio.sleep(0.01)


async def test_an_engine_that_is_busy_for_others_is_not_taken_for_one_that_hangs(start_gateway: StartGateway) -> None:
    flags = {"engine_stall_s": 0.3, "idle_probe_s": 0.1, "health_interval_s": 0.05}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        replica = next(iter(running.gateway.replicas))
        engine.on("/v1/completions", Behaviour(faults=[Fault("token", "hang")]))  # ours wait behind all of theirs

        async def steps_for_others() -> None:
            while True:
                engine.generated += 1
                await asyncio.sleep(0.01)

        others = asyncio.create_task(steps_for_others())
        await engine.wait_for(lambda e: len(e.calls("/v1/completions")) >= 4)
        others.cancel()
        assert (replica.ready, replica.stalls) == (True, 0)
