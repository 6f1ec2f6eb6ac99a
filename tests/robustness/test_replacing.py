"""B15: a gateway's process is replaced by another at the same socket, and no request fails."""

import asyncio
import os
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.command import FOREBAY
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import connect
from tests.gateway.replacing import Place, place

CLIENTS = 16


async def ask_until(one: Place, enough: asyncio.Event, ends: Counter[str], number: int) -> None:
    """Ask again and again, every other client on a connection that it keeps for as long as it may."""
    kept, stream = bool(number % 2), number % 4 > 1
    while not enough.is_set():
        try:
            async with connect(one.url) as raw:
                while not enough.is_set():
                    await raw.request("POST", CHAT, chat_body(max_tokens=3, stream=stream), AUTH)
                    answer = await raw.read_response("POST")
                    ends[f"{answer.status} {answer.ended}"] += 1
                    if not kept or answer.header("connection") == "close":
                        break
        except OSError as failure:
            ends[type(failure).__name__] += 1


async def replaced(times: int, every_s: float, least: int) -> tuple[Counter[str], Place]:
    """What became of the requests of clients while a gateway was replaced so many times."""
    ends: Counter[str] = Counter()
    enough = asyncio.Event()
    async with FakeEngine(token_delay_s=0.005) as engine, place("gateway", "--upstream", engine.url) as one:
        clients = [asyncio.create_task(ask_until(one, enough, ends, number)) for number in range(CLIENTS)]
        done = 0
        while done < times or ends.total() < least:
            await asyncio.sleep(every_s)
            await one.replace()
            done += 1
        enough.set()
        await asyncio.gather(*clients)
        assert one.process is not None
        await one.end(one.process)
        assert engine.violations == []
    return ends, one


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("times", "every_s", "least"), [(3, 0.3, 2_000), (10, 2.0, 20_000)], ids=["3 times", "20,000 requests"]
)
@pytest.mark.timeout(300)
async def test_a_gateway_is_replaced_under_load_and_no_request_fails(times: int, every_s: float, least: int) -> None:
    ends, one = await replaced(times, every_s, least)
    assert set(ends) == {"200 complete"}, ends
    assert {status for status, _ in one.ends} == {0}


async def test_who_connects_while_no_gateway_is_there_waits_for_the_next() -> None:
    async with FakeEngine() as engine, place("gateway", "--upstream", engine.url) as one:
        assert one.process is not None
        await one.end(one.process)
        async with connect(one.url) as raw:
            await raw.request("POST", CHAT, chat_body(max_tokens=1), AUTH)
            one.process = await one.start()
            assert (await raw.read_response("POST")).status == 200


@pytest.mark.parametrize(
    ("passed", "told"),
    [
        ("LISTEN_FDS=2", "LISTEN_FDS: 2 sockets were passed, and one is taken"),
        ("LISTEN_FDS=1", "LISTEN_FDS: what was passed is no listening TCP socket"),
    ],
)
def test_what_cannot_be_taken_is_said(passed: str, told: str) -> None:
    script = f'exec 3<&0; {passed} LISTEN_PID=$$ exec "$@"'
    with socket.socket() as sock:
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", FOREBAY, "gateway", "--upstream", "http://x"],
            stdin=sock, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_socket_that_anybody_reaches_wants_a_key_wherever_the_settings_say_that_we_listen(tmp_path: Path) -> None:
    script = 'exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    env = {name: value for name, value in os.environ.items() if name not in ("API_KEYS", "FOREBAY_API_KEYS")}
    with socket.create_server(("0.0.0.0", 0)) as sock:
        done = subprocess.run(
            ["/bin/sh", "-c", script, "sh", FOREBAY, "gateway", "--upstream", "http://x", "--host", "127.0.0.1"],
            stdin=sock, capture_output=True, text=True, timeout=60, check=False, env=env, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 2
    assert "listening on 0.0.0.0 without a key would let anybody in" in done.stderr
