"""The `forebay` command as a process: what it says, how it ends, and what its clients see of that."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess

import pytest

from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.command import FOREBAY, gateway_process
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch, text_of, token_numbers


async def test_sigterm_under_load_loses_no_request_and_ends_with_0() -> None:
    async with FakeEngine(token_delay_s=0.005) as engine, gateway_process(engine.url) as (process, url):
        answered = 0

        async def client(number: int) -> None:
            """Asks again and again, in turn whole and streamed, until the gateway says that it closes."""
            nonlocal answered
            async with connect(url) as raw:
                while True:
                    await raw.request("POST", CHAT, chat_body(max_tokens=5, stream=bool(number % 2)), AUTH)
                    answer = await raw.read_response("POST")
                    assert (answer.status, answer.ended) == (200, "complete")
                    if number % 2:
                        assert token_numbers(text_of(answer.events)) == list(range(5))
                    answered += 1
                    if answer.header("connection") == "close":
                        return

        clients = [asyncio.create_task(client(number)) for number in range(30)]
        while answered < 300:
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await asyncio.gather(*clients)
            assert await process.wait() == 0
        assert {record.outcome for record in engine.calls(CHAT)} == {"finished"}


async def test_a_storm_of_cancelled_requests_leaves_nothing_behind() -> None:
    """The bug class of httpx's pool: cancelled under contention, its places are lost for ever."""
    async with FakeEngine(token_delay_s=0.002, tokens=50) as engine, gateway_process(engine.url) as (process, url):
        before = len(os.listdir(f"/proc/{process.pid}/fd"))

        async def leave(number: int) -> None:
            async with connect(url) as raw:
                await raw.request("POST", CHAT, chat_body(stream=bool(number % 3), max_tokens=50), AUTH)
                if number % 5:
                    await asyncio.sleep((number % 7) / 500)

        for start in range(0, 2000, 100):
            await asyncio.gather(*[leave(number) for number in range(start, start + 100)])
        async with asyncio.timeout(30):
            while (status := (await fetch(url, "GET", "/health", **AUTH)).json())["active_requests"]:
                await asyncio.sleep(0.05)
        await engine.wait_for(lambda e: e.running == 0)
        assert status["replicas"][0]["in_flight"] == 0
        answers = [await fetch(url, "POST", CHAT, chat_body(max_tokens=1), **AUTH) for _ in range(100)]
        assert {answer.status for answer in answers} == {200}
        async with asyncio.timeout(20):
            while len(os.listdir(f"/proc/{process.pid}/fd")) > before + 3:
                await asyncio.sleep(0.05)


async def test_a_second_sigterm_ends_it_at_once() -> None:
    async with FakeEngine() as engine, gateway_process(engine.url, "--drain-timeout-s", "60") as (process, url):
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        waiting = asyncio.create_task(fetch(url, "POST", CHAT, chat_body(), **AUTH))
        await engine.wait_for(lambda e: e.running == 1)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # not ready, then closed
            while (await fetch(url, "GET", "/health/ready")).status == 200:
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert (await waiting).status == 503
            assert await process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "env", "told"),
    [
        (["gateway"], {}, "upstream: name at least one engine"),
        (["gateway", "--upstream", "ftp://x"], {}, "upstream: 'ftp://x' is not http://host:port"),
        (["gateway", "--upstream", "kubernetes://x:80"], {}, "upstream: 'kubernetes://x:80' is not kubernetes://name"),
        (["gateway", "--upstream", "kubernetes://x/y:80"], {}, "upstream: kubernetes:// works in a pod only"),
        (["gateway", "--upstream", "http://x", "--host", "0.0.0.0"], {}, "without a key would let anybody in"),
        (["gateway", "--upstream", "http://x", "--port", "99999"], {}, "port: Input should be less than"),
        (["serve"], {}, "model: name one"),
        (["serve", "/no/such/model"], {}, "model: there is no directory /no/such/model"),
        (["gateway", "--upstream", "http://x"], {"LOG_FILE": "/proc/no/such"}, "log_file: cannot open"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix_and_no_traceback(
    arguments: list[str], env: dict[str, str], told: str
) -> None:
    done = subprocess.run(
        [FOREBAY, *arguments, *([] if "--port" in arguments else ["--port", "0"])],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [FOREBAY, "gateway", "--upstream", "http://x", "--port", port],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


async def test_no_key_is_in_the_process_list() -> None:
    async with FakeEngine() as engine, gateway_process(engine.url) as (process, _):
        with open(f"/proc/{process.pid}/cmdline", "rb") as arguments:
            shown = arguments.read()
        assert b"gateway" in shown
        assert b"sk-test" not in shown


async def test_the_metrics_port_is_announced_and_a_taken_one_is_said_at_once() -> None:
    async with FakeEngine() as engine, gateway_process(engine.url, "--metrics-port", "0") as (process, _):
        assert process.stdout is not None
        told = (await process.stdout.readline()).decode()
        url = told.split()[-2]
        assert told.startswith("forebay: metrics are at http://127.0.0.1:")
        assert (await fetch(url.removesuffix("/metrics"), "GET", "/metrics", **AUTH)).status == 200
        taken = url.removesuffix("/metrics").rsplit(":", 1)[1]
        other = await asyncio.create_subprocess_exec(
            *(FOREBAY, "gateway", "--upstream", engine.url, "--port", "0", "--metrics-port", taken),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await other.communicate()
        assert other.returncode != 0
        assert b"choose another --metrics-port" in said
