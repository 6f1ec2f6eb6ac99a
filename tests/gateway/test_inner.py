"""Requests that Forebay makes itself go the way of all others."""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from forebay.gateway.inner import InnerCall, Refused
from forebay.gateway.routes import find_route
from forebay.policy.auth import ADMIN, ANONYMOUS, Principal
from tests.gateway.calls import CHAT, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import FakeEngine

WHO = Principal(tenant="acme", key_id="key-1")


def call(running: Running, who: Principal = WHO, **fields: Any) -> InnerCall:
    route = find_route(b"POST", CHAT.encode())
    assert route is not None
    return InnerCall(running.gateway.pipeline, who, route, json.dumps(chat_body(**fields)).encode())


async def test_an_answer_is_whole_and_its_leases_are_back(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answered = await call(running, max_tokens=3).answer()
        assert (answered.status, json.loads(answered.body)["usage"]["completion_tokens"]) == (200, 3)
        assert answered.exchange.usage is not None
        assert not running.gateway.pipeline.running
        assert running.gateway.pipeline.admission.under_way == 0


async def test_a_stream_comes_block_by_block_to_its_end(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        told = b"".join([block async for block in call(running, stream=True, max_tokens=5).events()])
        assert told.count(b'"delta"') >= 5
        assert told.endswith(b"data: [DONE]\n\n")
        assert not running.gateway.pipeline.running


async def test_a_refusal_is_an_answer_and_instead_of_a_stream_an_exception(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answered = await call(running, model="nope").answer()
        assert (answered.status, json.loads(answered.body)["error"]["code"]) == (404, "model_not_found")
        with pytest.raises(Refused) as caught:
            [block async for block in call(running, model="nope", stream=True).events()]
        assert caught.value.answered.status == 404
        assert (await call(running, who=replace(ANONYMOUS, scopes=ADMIN)).answer()).status == 403


async def test_whoever_stops_waiting_ends_the_generation(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.01, max_model_len=40_000) as engine, start_gateway(engine.url) as running:
        waiting = asyncio.create_task(call(running, max_tokens=10_000).answer())
        while not engine.running:
            await asyncio.sleep(0.005)
        waiting.cancel()
        async with aclosing(call(running, stream=True, max_tokens=10_000).events()) as blocks:
            async for _ in blocks:
                break
        while engine.running:
            await asyncio.sleep(0.005)
        assert not running.gateway.pipeline.running


async def test_a_reader_that_is_slow_holds_up_the_engine(start_gateway: StartGateway) -> None:
    async with FakeEngine(tokens=20_000, max_model_len=40_000) as engine, start_gateway(engine.url) as running:
        async with aclosing(call(running, stream=True, max_tokens=20_000).events()) as blocks:
            first = await anext(blocks)
            await asyncio.sleep(0.5)  # all of it would be here by now
            (exchange,) = running.gateway.pipeline.running
            assert exchange.events_out < 20_000
            rest = b"".join([block async for block in blocks])
        assert (first + rest).endswith(b"data: [DONE]\n\n")
        assert (first + rest).count(b'"delta"') >= 20_000
