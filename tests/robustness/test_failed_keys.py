"""D8: keys that are tried from an address cost it its turn, and nobody else anything."""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from forebay.policy.attempts import MOST_LOOK_UPS
from forebay.store.keys import Keys
from tests.gateway.calls import CHAT, chat_body, error_of
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import RawConnection, Response, connect
from tests.servers import sqlalchemy_url
from tests.store.databases import made, new_key

PROXY: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",)}
ATTACKER, OTHER = "203.0.113.1", "203.0.113.2"


async def ask(raw: RawConnection, key: str, address: str = ATTACKER, path: str = CHAT) -> Response:
    method = "POST" if path == CHAT else "GET"
    body = chat_body(max_tokens=1) if method == "POST" else b""
    await raw.request(method, path, body, {"authorization": f"Bearer {key}", "x-forwarded-for": address})
    return await raw.read_response(method)


async def test_an_address_that_tries_keys_is_told_to_stop_and_valid_keys_go_on_from_it(
    start_gateway: StartGateway,
) -> None:
    flags = {**PROXY, "failed_keys_per_minute": 5, "admin_keys": ("sk-admin",)}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, connect(running.url) as raw:
        for number in range(5):
            assert (await ask(raw, f"sk-{number}", path=("/v1/models", CHAT)[number % 2])).status == 401
        for path in (CHAT, "/v1/models", "/metrics", "/admin/v1/live"):
            refused = await ask(raw, "sk-next", path=path)
            assert (refused.status, error_of(refused)["code"]) == (429, "too_many_invalid_keys"), path
            assert 0 < int(refused.header("retry-after") or 0) <= 60
            assert refused.header("x-should-retry") == "false"
        assert (await ask(raw, KEY)).status == 200, "a valid key works from the same address"
        assert (await ask(raw, "sk-admin", path="/admin/v1/live")).status == 200
        assert (await ask(raw, "sk-next", OTHER)).status == 401, "and others are not counted with it"
        assert running.figures()['forebay_limit_refusals_total{limit="failed_keys",scope="address"}'] == 1
        assert len(engine.calls(CHAT)) == 1


async def test_whoever_brings_no_key_or_half_of_one_is_told_so_and_not_counted(start_gateway: StartGateway) -> None:
    async with start_gateway("http://127.0.0.1:9", ready=False, failed_keys_per_minute=1) as running:
        async with connect(running.url) as raw:
            for _ in range(5):
                await raw.request("GET", "/v1/models", b"", {})
                assert (await raw.read_response("GET")).status == 401
            assert (await ask(raw, "")).status == 401
            assert (await ask(raw, "sk-one")).status == 401
            assert (await ask(raw, "sk-two")).status == 429


async def test_wrong_keys_do_not_lock_a_victims_key_out(start_gateway: StartGateway) -> None:
    """Counted by address alone: what looks like the victim's key from elsewhere says nothing of the key."""
    flags = {**PROXY, "failed_keys_per_minute": 3}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, connect(running.url) as raw:
        for number in range(50):
            assert (await ask(raw, KEY + "x" * (number % 5 + 1))).status in (401, 429)
            if number % 10 == 0:
                assert (await ask(raw, KEY, OTHER)).status == 200


def unknown_key() -> str:
    return f"fb-{secrets.token_hex(8)}-{secrets.token_urlsafe(32)}"


def new_keys(database_url: str, count: int) -> list[str]:
    database = made(database_url)
    texts = [new_key(Keys(database))[1] for _ in range(count)]
    database.close()
    return texts


async def test_new_keys_are_found_while_others_are_tried_without_end(
    database_url: str, start_gateway: StartGateway
) -> None:
    mine, theirs = new_keys(database_url, 10), new_keys(database_url, 2)
    flags: dict[str, Any] = {**PROXY, "api_keys": (), "database_url": SecretStr(database_url)}
    over, told = asyncio.Event(), set[int]()

    async def try_keys(url: str) -> None:
        async with connect(url) as raw:
            while not over.is_set():
                told.add((await ask(raw, unknown_key())).status)

    async with FakeEngine() as engine, start_gateway(engine.url, **flags, failed_keys_per_minute=10) as running:
        flood = [asyncio.create_task(try_keys(running.url)) for _ in range(4)]
        async with connect(running.url) as raw, asyncio.timeout(20):
            while 429 not in told:
                await asyncio.sleep(0.001)
            assert [(await ask(raw, key, OTHER)).status for key in mine] == [200] * 10
            for key in theirs:  # behind the address of who tries them: found in the end, and known from then on
                while (answer := await ask(raw, key)).status != 200:
                    assert (answer.status, answer.header("retry-after")) == (429, "1")
                assert {(await ask(raw, key)).status for _ in range(10)} == {200}
        over.set()
        await asyncio.gather(*flood)
        assert told == {401, 429}


@contextmanager
def held(database_url: str) -> Iterator[None]:
    """Nobody's key is found meanwhile: PostgreSQL lets all who look wait."""
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.connect() as connection:
        connection.execute(text("LOCK TABLE key_secrets IN ACCESS EXCLUSIVE MODE"))
        yield
    engine.dispose()


@pytest.mark.parametrize("tried_before", [0, 11])
async def test_a_slow_database_has_room_for_new_keys_whatever_one_address_tries(
    postgres: str, start_gateway: StartGateway, tried_before: int
) -> None:
    """The look-ups of one address are bounded before any has failed, too: all its keys may come at once."""
    (new,) = new_keys(postgres, 1)
    room = 1 if tried_before else MOST_LOOK_UPS
    flags: dict[str, Any] = {**PROXY, "api_keys": (), "database_url": SecretStr(postgres)}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags, failed_keys_per_minute=10) as running:
        async with AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(connect(running.url)) for _ in range(room + 10)]
            for _ in range(tried_before):
                await ask(raws[0], unknown_key())
            with held(postgres):
                waiting = {asyncio.create_task(ask(raw, unknown_key())) for raw in raws}
                while len(waiting) > room:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    assert {task.result().status for task in done} == {429}
                raw = await stack.enter_async_context(connect(running.url))
                mine = asyncio.create_task(ask(raw, new, OTHER))
                assert running.gateway.keys is not None
                while len(running.gateway.keys._asked) < room + 1:
                    await asyncio.sleep(0.001)
            assert (await mine).status == 200
            assert {answer.status for answer in await asyncio.gather(*waiting)} <= {401, 429}
        assert running.gateway.attempts._look_ups == {}
