"""NGINX as delivered, in front of two real gateways: what goes through it, what does not, and what is lost when a
gateway ends or dies. (Nothing.)"""

import asyncio
import json
import signal
import ssl
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.deploy.nginx import Nginx, arguments, configure, running
from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.command import gateway_process
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import parse_events, text_of, token_numbers
from tests.processes import free_port
from tests.waiting import until

FLAGS = ("--trusted-proxies", "127.0.0.1", "--health-interval-s", "0.2")


class Stack:
    """NGINX, two gateways and their engine. A gateway can be ended, and started again where it was."""

    def __init__(self, engine: FakeEngine, directory: Path, *flags: str) -> None:
        self.engine = engine
        self.directory = directory
        self.ports = [free_port(), free_port()]
        self.gateways: list[Process] = []
        self._flags = (*FLAGS, *flags)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> "Stack":
        self.gateways = list(await asyncio.gather(self.start(0), self.start(1)))
        urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.nginx: Nginx = await self._exits.enter_async_context(running(self.directory, *urls))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def start(self, number: int) -> Process:
        log = ("--log-file", str(self.directory / f"gateway-{number}.log"))
        started = gateway_process(self.engine.url, *self._flags, *log, "--port", str(self.ports[number]))
        process, _ = await self._exits.enter_async_context(started)
        return process

    def busy(self) -> int:
        """Which gateway the request that NGINX has now is with: the one with a connection from it."""
        inodes = Path("/proc/net/tcp").read_text().splitlines()[1:]
        open_to = [int(line.split()[2].split(":")[1], 16) for line in inodes if line.split()[3] == "01"]
        return max((0, 1), key=lambda number: open_to.count(self.ports[number]))

    @asynccontextmanager
    async def client(self, address: str = "127.0.0.1") -> AsyncIterator[httpx2.AsyncClient]:
        transport = httpx2.AsyncHTTPTransport(verify=self.nginx.trust, local_address=address)
        async with httpx2.AsyncClient(base_url=self.nginx.url, transport=transport, headers=AUTH, timeout=30) as client:
            yield client


async def test_nginx_takes_the_configuration_and_warns_of_nothing(tmp_path: Path) -> None:
    nginx = configure(tmp_path, ["http://127.0.0.1:1", "http://127.0.0.1:2"])
    process = await asyncio.create_subprocess_exec(*arguments(nginx), "-t", stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert b"[warn]" not in said.replace(b'"user" directive', b""), said.decode()


async def test_a_stream_comes_through_as_it_is_made(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, Stack(engine, tmp_path) as stack, stack.client() as client:
        engine.script(Behaviour(tokens=6, faults=[Fault("token", gate, after=2)]))
        async with client.stream("POST", CHAT, json=chat_body(stream=True)) as answer:
            assert answer.status_code == 200
            got = b""
            async for block in answer.aiter_raw():
                got += block
                if not gate.is_set() and b" t1" in got:
                    assert engine.tokens_sent == 2
                    assert engine.running == 1
                    gate.set()
        assert token_numbers(text_of(parse_events(got))) == list(range(6))
        assert got.endswith(b"data: [DONE]\n\n")


async def test_gateways_are_drained_in_turn_under_load_and_no_request_fails(tmp_path: Path) -> None:
    async with FakeEngine(token_delay_s=0.005) as engine, Stack(engine, tmp_path) as stack:
        answered = 0
        over = asyncio.Event()

        async def caller(number: int) -> None:
            nonlocal answered
            async with stack.client() as client:
                while not over.is_set():
                    body = chat_body(max_tokens=5, stream=bool(number % 2))
                    answer = await client.post(CHAT, json=body)
                    assert answer.status_code == 200, answer.text
                    if number % 2:
                        assert token_numbers(text_of(parse_events(answer.content))) == list(range(5))
                    answered += 1

        async def more(requests: int) -> None:
            wanted = answered + requests
            while answered < wanted:
                done = [caller for caller in callers if caller.done()]
                assert not done, done[0].exception()
                await asyncio.sleep(0.005)

        async def used_again(number: int) -> None:
            before = len(stack.nginx.log_lines())
            address = f"127.0.0.1:{stack.ports[number]}"
            while not [line for line in stack.nginx.log_lines()[before:] if line["gateways"] == address]:
                await more(20)

        callers = [asyncio.create_task(caller(number)) for number in range(24)]
        async with asyncio.timeout(60):
            for number in (0, 1):
                await more(100)
                stack.gateways[number].send_signal(signal.SIGTERM)
                assert await stack.gateways[number].wait() == 0
                await more(100)
                stack.gateways[number] = await stack.start(number)
                await used_again(number)
            over.set()
            await asyncio.gather(*callers)
        assert len(engine.calls(CHAT)) == answered
        assert {record.outcome for record in engine.calls(CHAT)} == {"finished"}


async def test_a_gateway_that_is_gone_costs_nobody_anything(tmp_path: Path) -> None:
    async with FakeEngine() as engine, Stack(engine, tmp_path) as stack, stack.client() as client:
        stack.gateways[0].kill()
        await stack.gateways[0].wait()
        for _ in range(20):
            assert (await client.post(CHAT, json=chat_body())).status_code == 200
        assert len(engine.calls(CHAT)) == 20


@pytest.mark.parametrize("stream", [False, True])
async def test_a_post_is_not_repeated_when_its_gateway_dies(stream: bool, tmp_path: Path) -> None:
    """It may have been carried out: the caller is told, and the other gateway never hears of it."""
    fault = Fault("token", "hang", after=3) if stream else Fault("head", "hang")
    async with FakeEngine() as engine, Stack(engine, tmp_path) as stack, stack.client() as client:
        engine.script(Behaviour(faults=[fault]))
        asked = asyncio.create_task(client.post(CHAT, json=chat_body(stream=stream)))
        await engine.wait_for(lambda e: e.running == 1 and (not stream or e.tokens_sent == 3))
        stack.gateways[stack.busy()].kill()
        if stream:
            with pytest.raises(httpx2.RemoteProtocolError):
                await asked
        else:
            assert (await asked).status_code == 502
        assert (await client.post(CHAT, json=chat_body())).status_code == 200
        assert len(engine.calls(CHAT)) == 2


async def test_a_refusal_is_passed_on_and_no_other_gateway_asked(tmp_path: Path) -> None:
    limits = ("--key-limits", "requests_per_minute=1")
    async with FakeEngine() as engine, Stack(engine, tmp_path, *limits) as stack, stack.client() as client:
        answers = [await client.post(CHAT, json=chat_body()) for _ in range(6)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert [answer.status_code for answer in answers].count(200) <= 2
        assert len(refused) >= 4
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
        await until(lambda: len(stack.nginx.log_lines()) >= len(answers))
        assert not [line for line in stack.nginx.log_lines() if "," in line["gateways"]]


async def test_the_gateway_knows_the_client_whatever_it_says_of_itself(tmp_path: Path) -> None:
    async with FakeEngine() as engine, Stack(engine, tmp_path) as stack:
        async with stack.client("127.0.0.2") as client:
            answer = await client.post(CHAT, json=chat_body(), headers={"x-forwarded-for": "203.0.113.9"})
        assert answer.status_code == 200
        for gateway in stack.gateways:
            gateway.send_signal(signal.SIGTERM)
            assert await gateway.wait() == 0
        logs = "".join((tmp_path / f"gateway-{number}.log").read_text() for number in (0, 1))
        clients = {line["client"] for line in map(json.loads, logs.splitlines()) if line["message"] == "request"}
        assert clients == {"127.0.0.2"}


async def test_what_is_for_operators_is_not_reached_from_outside(tmp_path: Path) -> None:
    async with FakeEngine() as engine, Stack(engine, tmp_path, "--metrics-public") as stack:
        assert (await stack.nginx.ask("/health")).startswith(b"HTTP/1.1 200 ")
        paths = ["/metrics", "/metrics/engines", "/admin/v1/keys", "/debug/runtime", "/ui", "/ui/page.js"]
        around = [
            "/%6detrics",
            "//metrics",
            "/v1/../metrics",
            "/v1/%2e%2e/metrics",
            "/metrics?x",
            "/metrics/",
            "/./metrics",
        ]
        for path in paths + around:
            assert (await stack.nginx.ask(path)).startswith(b"HTTP/1.1 404 "), path
        asked = 1 + len(paths + around)
        await until(lambda: len(stack.nginx.log_lines()) >= asked)  # a line is written behind its answer
        assert [line["gateways"] for line in stack.nginx.log_lines()[1:]] == [""] * (asked - 1)


async def test_it_speaks_http_2_and_tells_who_comes_without_tls(tmp_path: Path) -> None:
    async with running(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2") as nginx:
        offered = ssl.create_default_context()
        offered.check_hostname, offered.verify_mode = False, ssl.CERT_NONE
        offered.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", nginx.port, ssl=offered)
        session: Any = writer.get_extra_info("ssl_object")
        assert session.selected_alpn_protocol() == "h2"
        writer.close()
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{nginx.plain_port}/v1/models")).status_code == 403
