"""B21: one budget of memory for what is held whole, given back however a request ends; beyond it callers get 503."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from forebay.room import LEAST_BYTES, Held, Room, default_room, joined
from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine
from tests.gateway.raw_client import RawConnection, connect, fetch

MIB = 1 << 20
BODY = json.dumps(chat_body(padding="x" * 700_000)).encode()
HEAD = (
    b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-test\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


async def until_held(running: Running, least: int, most: int) -> None:
    async with asyncio.timeout(20):
        while not least <= running.gateway.room.bytes <= most:
            await asyncio.sleep(0.005)


async def begin_upload(raw: RawConnection, path: str = CHAT) -> None:
    """All of a large body but its last byte."""
    await raw.send(HEAD % (path.encode(), len(BODY)) + BODY[:-1])


async def test_bodies_beyond_the_budget_are_told_to_come_back_and_those_within_it_are_served(
    start_gateway: StartGateway,
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, max_held_bytes=MIB) as running:
        async with connect(running.url) as first, connect(running.url) as second:
            await begin_upload(first)
            await until_held(running, len(BODY) - 1, len(BODY))
            await begin_upload(second)
            refused = await second.read_response("POST")
            assert (refused.status, refused.json()["error"]["code"]) == (503, "server_is_overloaded")
            assert 2 <= int(refused.header("retry-after") or 0) <= 4
            assert (await chat(running.url)).status == 200  # small ones have their place
            await first.send(BODY[-1:])
            assert (await first.read_response("POST")).status == 200
        await until_held(running, 0, 0)
        assert (await fetch(running.url, "POST", CHAT, json.loads(BODY), **AUTH)).status == 200
        await until_held(running, 0, 0)


@pytest.mark.parametrize("ending", ["left", "reset", "too slow", "not JSON"])
async def test_what_was_held_of_a_body_is_given_back_however_it_ends(ending: str, start_gateway: StartGateway) -> None:
    flags = {"max_held_bytes": MIB, "body_timeout_s": 0.5 if ending == "too slow" else 30.0}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, connect(running.url) as raw:
        await begin_upload(raw)
        await until_held(running, 500_000, MIB)
        match ending:
            case "left":
                raw.close()
            case "reset":
                raw.reset()
            case "too slow":
                assert (await raw.read_response("POST")).status == 408
            case "not JSON":
                await raw.send(b"x")
                assert (await raw.read_response("POST")).status == 400
        await until_held(running, 0, 0)


async def test_answers_are_held_within_the_budget_and_no_engine_is_blamed(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, max_held_bytes=MIB) as running:
        for _ in range(8):  # more than open a breaker
            engine.script(Behaviour(body_bytes=2 * MIB))
            answer = await chat(running.url)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "server_is_overloaded")
            await until_held(running, 0, 0)
        (replica,) = running.gateway.replicas
        assert replica.breaker.state.value == "closed"
        engine.script(Behaviour(body={**_answer(), "padding": "x" * 500_000}))
        assert (await chat(running.url)).status == 200
        await until_held(running, 0, 0)


async def test_answers_that_clients_leave_unread_leave_no_room_to_others(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, max_held_bytes=12 * MIB) as running:
        async with AsyncExitStack() as held:
            for _ in range(2):
                engine.script(Behaviour(body={**_answer(), "padding": "x" * 8 * MIB}))
                raw = await held.enter_async_context(connect(running.url, receive_buffer_bytes=4096))
                await raw.request("POST", CHAT, chat_body(), AUTH)
                if not running.gateway.room.bytes:
                    await until_held(running, MIB, 12 * MIB)
                    await engine.wait_for(lambda e: e.running == 0)
            async with asyncio.timeout(20):
                assert (await raw.read_response("POST")).status == 503
        await until_held(running, 0, 0)


async def test_our_own_endpoints_hold_bodies_within_the_same_budget(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, max_held_bytes=MIB) as running:
        async with connect(running.url) as first, connect(running.url) as second:
            await begin_upload(first, "/generate")
            await until_held(running, len(BODY), len(BODY))
            await begin_upload(second, "/generate")
            assert (await second.read_response("POST")).status == 503
            await first.send(b"x")
            assert (await first.read_response("POST")).status == 400
        await until_held(running, 0, 0)


def test_small_pieces_take_no_more_than_their_bytes() -> None:
    """As a list of bytes they took twenty times that."""
    held: Held = b""
    for _ in range(100_000):
        held = joined(held, b"ab")
    assert bytes(held) == b"ab" * 100_000
    assert sys.getsizeof(held) < 1.3 * len(held)
    whole = b"one piece is kept as it is"
    assert joined(b"", whole) is whole


def test_the_budget_is_never_exceeded_by_what_asks_first() -> None:
    room = Room(10)
    assert room.take(6)
    assert not room.take(5)
    room.add(20)
    assert not room.take(1)
    room.give(26)
    assert (room.bytes, room.take(10)) == (0, True)


def test_by_default_it_is_a_share_of_what_the_container_may_use(tmp_path: Path) -> None:
    machine = default_room(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert default_room(tmp_path) == machine
    (tmp_path / "memory.max").write_text(f"{2048 * MIB}\n")
    assert default_room(tmp_path) == min(256 * MIB, machine)
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    assert default_room(tmp_path) == LEAST_BYTES


def _answer() -> dict[str, object]:
    message = {"role": "assistant", "content": "hello"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
