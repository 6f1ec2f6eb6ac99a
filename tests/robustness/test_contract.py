"""What clients are told to do next (contract 4.1), and how many engines one request may cost (invariant I2, row E7)."""

import asyncio

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch


@pytest.mark.parametrize(("stream", "told"), [(False, "false"), (True, None)], ids=["whole", "stream"])
async def test_a_time_out_after_tokens_were_generated_is_not_to_be_retried(
    stream: bool, told: str | None, start_gateway: StartGateway
) -> None:
    """4.1: a whole answer's tokens are generated before its first byte; a stream that has not begun has none."""
    flags = {"first_byte_timeout_s": 0.3, "retry_attempts": 1}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        answer = await chat(running.url, stream=stream)
        assert (answer.status, error_of(answer)["code"]) == (504, "upstream_timeout")
        assert answer.header("x-should-retry") == told


async def test_a_draining_gateway_says_when_to_come_back(start_gateway: StartGateway) -> None:
    """4.1: what was cut off is to be asked again, of another one."""
    async with FakeEngine() as engine, start_gateway(engine.url, drain_timeout_s=0.2) as running:
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(), AUTH)
            await engine.wait_for(lambda e: e.running == 1)
            running.server.stop()
            answer = await raw.read_response("POST")
        assert (answer.status, error_of(answer)["code"]) == (503, "draining")
        assert 1 <= int(answer.header("retry-after") or 0) <= 2
        assert answer.header("x-should-retry") == "true"


async def test_those_who_find_no_engine_ready_do_not_all_come_back_at_once(start_gateway: StartGateway) -> None:
    """B24: as when the model loads and hundreds wait for it."""
    async with start_gateway("http://127.0.0.1:9", ready=False) as running:
        answers = await asyncio.gather(*(fetch(running.url, "POST", CHAT, chat_body(), **AUTH) for _ in range(100)))
        assert {answer.status for answer in answers} == {503}
        told = {int(answer.header("retry-after") or 0) for answer in answers}
        assert len(told) >= 4
        assert told <= set(range(1, 31))


async def test_a_request_that_kills_engines_costs_no_more_than_one_and_its_attempts(
    start_gateway: StartGateway,
) -> None:
    """I2: each engine that it is sent to dies under it, and there are plenty."""
    engines = [FakeEngine() for _ in range(6)]
    for engine in engines:
        await engine.start()
        engine.default = lambda record: Behaviour(faults=[Fault("head", "reset")])
    try:
        async with start_gateway(*(engine.url for engine in engines), retry_attempts=2) as running:
            async with asyncio.timeout(20):
                while not all(replica.ready for replica in running.gateway.replicas):
                    await asyncio.sleep(0.005)
                answer = await chat(running.url)
            assert (answer.status, error_of(answer)["code"]) == (503, "engine_unavailable")
            assert sum(bool(engine.calls(CHAT)) for engine in engines) == 3
            for engine in engines:
                engine.default = lambda record: Behaviour()
            assert (await chat(running.url)).status == 200
    finally:
        for engine in engines:
            await engine.stop()
