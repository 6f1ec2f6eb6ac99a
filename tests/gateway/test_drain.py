"""Ending: what was accepted is answered."""

import asyncio
import json
from time import monotonic

from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch, text_of, token_numbers


async def test_running_requests_finish_and_readiness_says_503_meanwhile(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, drain_delay_s=2.0) as running:
        engine.script(Behaviour(tokens=6, faults=[Fault("token", gate, after=2)]))
        stream = asyncio.create_task(chat(running.url, stream=True))
        await engine.wait_for(lambda e: e.running == 1)
        running.server.stop()
        while (ready := await fetch(running.url, "GET", "/health/ready", **AUTH)).status == 200:
            await asyncio.sleep(0.01)
        assert "draining" in ready.json()["reason"]
        late = await chat(running.url)
        assert (late.status, late.header("connection")) == (200, "close")
        gate.set()
        assert token_numbers(text_of((await stream).events)) == list(range(6))
        await running.stop()


async def test_what_outlasts_the_drain_is_told_so(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, drain_timeout_s=0.3) as running:
        engine.script(Behaviour(faults=[Fault("token", "hang", after=2)]), Behaviour(faults=[Fault("head", "hang")]))
        stream = asyncio.create_task(chat(running.url, stream=True))
        await engine.wait_for(lambda e: e.running == 1 and e.tokens_sent == 2)
        whole = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 2)
        began = monotonic()
        await running.stop()
        assert monotonic() - began < 20
        assert json.loads((await stream).events[-2].data or "")["error"]["code"] == "draining"
        assert (await whole).status == 503


async def test_a_busy_connection_loses_no_request_to_the_drain(start_gateway: StartGateway) -> None:
    """Clients on kept-alive connections go on until they are told `connection: close`; none sees an error."""
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answered = 0

        async def client() -> None:
            nonlocal answered
            async with connect(running.url) as raw:
                while True:
                    await raw.request("POST", CHAT, chat_body(max_tokens=1), AUTH)
                    answer = await raw.read_response("POST")
                    assert answer.status == 200
                    answered += 1
                    if answer.header("connection") == "close":
                        return

        clients = [asyncio.create_task(client()) for _ in range(20)]
        while answered < 200:
            await asyncio.sleep(0.001)
        await running.stop()
        await asyncio.gather(*clients)
        assert running.gateway.pipeline.admission.under_way == 0


async def test_a_second_signal_skips_the_waiting(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, drain_timeout_s=60, drain_delay_s=60) as running:
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        waiting = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 1)
        began = monotonic()
        running.server.handle_exit(15, None)
        await asyncio.sleep(0)
        while not running.gateway.pipeline.draining:
            await asyncio.sleep(0.001)
        running.server.handle_exit(15, None)
        assert (await waiting).status == 503
        await running.stop()
        assert monotonic() - began < 30
