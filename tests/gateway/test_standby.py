"""A model without an engine, as where engines are started on demand: who asks for it waits for one."""

import asyncio
from pathlib import Path

from tests.gateway.calls import AUTH, CHAT, chat, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.fake_kubernetes import FakeKubernetes
from tests.gateway.raw_client import fetch
from tests.gateway.test_membership import pods, source_of
from tests.gateway.test_queue import queued

WAITING = 'forebay_queue_requests{model="fake-model"}'
STANDBY = {"standby_models": ("fake-model",), "ready": False}


async def test_a_request_brings_up_an_engine_by_waiting_for_it(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeKubernetes(tmp_path) as api, FakeEngine() as engine:
        sources = [source_of(api)]
        async with start_gateway(sources=sources, queue_timeout_s=60, **STANDBY) as running:
            assert (await fetch(running.url, "GET", "/readyz")).status == 200
            cards = (await fetch(running.url, "GET", "/v1/models", **AUTH)).json()["data"]
            assert [card["id"] for card in cards] == ["fake-model"]
            asked = [asyncio.create_task(chat(running.url, stream=number == 0)) for number in range(3)]
            await queued(running, 3)
            assert running.figures()[WAITING] == 3
            pods(api, engine)
            assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 3
            assert running.figures()[WAITING] == 0
            pods(api)
            while running.gateway.replicas.replicas:
                await asyncio.sleep(0.005)
            again = asyncio.create_task(chat(running.url))
            await queued(running, 1)
            pods(api, engine)
            assert (await again).status == 200


async def test_who_waits_for_an_engine_in_vain_is_told_in_time(start_gateway: StartGateway) -> None:
    async with start_gateway(sources=[], queue_timeout_s=0.2, **STANDBY) as running:
        answer = await chat(running.url)
        assert (answer.status, error_of(answer)["code"]) == (503, "server_is_overloaded")
        assert int(dict(answer.headers)["retry-after"]) >= 1
        other = await fetch(running.url, "POST", CHAT, b'{"model": "other", "messages": []}', **AUTH)
        assert (other.status, error_of(other)["code"]) == (503, "engine_unavailable")
