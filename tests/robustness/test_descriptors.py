"""B20: a gateway that runs out of file descriptors says no to some, blames no engine, and recovers."""

import asyncio
import os
import resource
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest

from forebay.descriptors import BESIDE, SPARE, callers_within
from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.command import gateway_process
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import connect, fetch

ADMIN = {"authorization": "Bearer sk-admin"}


def gateway_with(
    engine: FakeEngine, descriptors: int, *flags: str, host: str = "127.0.0.1"
) -> AbstractAsyncContextManager[tuple[asyncio.subprocess.Process, str]]:
    """A gateway in a process that may open so many files; with its URL, once it is ready."""
    upstream, often = engine.url.replace("127.0.0.1", host), ("--health-interval-s", "0.1")
    return gateway_process(upstream, *often, *flags, files=descriptors, ADMIN_KEYS="sk-admin")


@pytest.mark.parametrize("open_now", [0, 20, 200])
@pytest.mark.parametrize("most", [64, 128, 1024, 20_000, 1_000_000])
def test_callers_and_their_engines_never_need_all_there_is(most: int, open_now: int) -> None:
    callers = callers_within(most, open_now)
    assert callers == 1 or 2 * callers + open_now + SPARE + BESIDE <= most


async def test_health_and_administration_answer_while_callers_hold_every_descriptor() -> None:
    async with FakeEngine() as engine, gateway_with(engine, 160) as (_, url), AsyncExitStack() as held:
        for _ in range(250):
            await held.enter_async_context(connect(url))
        async with asyncio.timeout(20):
            health = await fetch(url, "GET", "/health")
        assert (health.status, health.header("connection")) == (200, "close")
        assert (await fetch(url, "GET", "/admin/v1/keys", **ADMIN)).status in (200, 404)
        refused = await fetch(url, "POST", CHAT, chat_body(), **AUTH)
        assert (refused.status, refused.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert 2 <= int(refused.header("retry-after") or 0) <= 4
        assert engine.calls(CHAT) == []
        assert (await fetch(url, "GET", "/v1/models", **AUTH)).status == 503
        await held.aclose()
        async with asyncio.timeout(20):
            while (await fetch(url, "POST", CHAT, chat_body(), **AUTH)).status != 200:
                await asyncio.sleep(0.05)


async def test_below_the_bound_every_caller_is_served() -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, gateway_with(engine, 160) as (process, url):
        room = callers_within(160, len(os.listdir(f"/proc/{process.pid}/fd")))
        assert room > 20
        answers = await asyncio.gather(*(fetch(url, "POST", CHAT, chat_body(), **AUTH) for _ in range(room - 8)))
        assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_engine_is_blamed_for_want_of_our_own_descriptors(host: str) -> None:
    """The failing connections are ours: neither the breaker nor the health check may take the engine out. To look a
    name up takes descriptors too, and without them it is not found."""
    flags = ("--upstream-idle-s", "0.1")
    async with (
        FakeEngine() as engine,
        gateway_with(engine, 256, *flags, host=host) as (process, url),
        connect(url) as caller,
    ):
        await caller.request("GET", "/health")  # connected, and what is imported late is imported
        assert (await caller.read_response("GET")).status == 200
        async with asyncio.timeout(20):
            await take_all_descriptors(process.pid, engine)
        checks = len(engine.calls("/health"))
        for _ in range(8):  # more than open a breaker
            await caller.request("POST", CHAT, chat_body(), AUTH)
            answer = await caller.read_response("POST")
            assert (answer.status, answer.json()["error"]["code"]) == (503, "server_is_overloaded")
            assert answer.header("retry-after")
            await asyncio.sleep(0.1)  # a health check fails as well
        assert len(engine.calls("/health")) == checks
        await caller.request("GET", "/health", headers=AUTH)
        (seen,) = (await caller.read_response("GET")).json()["replicas"]
        assert (seen["ready"], seen["breaker"], seen["in_flight"]) == (True, "closed", 0)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (256, 256))
        await caller.request("POST", CHAT, chat_body(), AUTH)
        assert (await caller.read_response("POST")).status == 200


async def take_all_descriptors(pid: int, engine: FakeEngine) -> None:
    """Lower a process's limit until it can open nothing more: until no health check reaches the engine for a while."""
    quiet = 0
    while quiet < 4:
        checks = len(engine.calls("/health"))
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        lowest_free = next(number for number in range(len(used) + 1) if number not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, 256))
        await asyncio.sleep(0.4)  # a connection at rest is closed within this
        quiet = quiet + 1 if len(engine.calls("/health")) == checks else 0
