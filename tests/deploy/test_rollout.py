"""Two gateways and two agents with their engines, all of them processes, replaced one by one while clients ask.

What Kubernetes does beside it is done here by hand, in its order: a new process, once it is ready, is told of to those
who ask (clients of gateways, gateways of engines); then the old one gets SIGTERM, and is no longer told of.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.gateway.calls import AUTH
from tests.gateway.command import FOREBAY, serving
from tests.gateway.raw_client import RawConnection, connect, fetch, text_of, token_numbers
from tests.gateway.test_agent import an_environment
from tests.processes import free_port

ASKED = "/v1/completions"


@dataclass
class Running:
    """A process, and where its clients find it."""

    process: asyncio.subprocess.Process
    url: str
    pages: str

    async def until_ready(self) -> None:
        async with asyncio.timeout(20):
            while (await fetch(self.pages, "GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        """As a pod ends: SIGTERM, and what runs may finish."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await self.process.wait() == 0


@dataclass
class Fleet:
    """What runs now. Gateways read of engines in one file of settings, which they follow."""

    directory: Path
    stack: AsyncExitStack
    gateways: list[Running] = field(default_factory=list)
    engines: list[Running] = field(default_factory=list)

    async def agent(self) -> Running:
        port = free_port()
        words = ("engine", "m", "--agent-port", "0", "--engine-port", str(port), "--health-interval-s", "0.1")
        process, pages = await self._start(*words, "--drain-delay-s", "1", "--engine-stop-timeout-s", "1")
        running = Running(process, f"http://127.0.0.1:{port}", pages)
        await running.until_ready()
        return running

    async def gateway(self) -> Running:
        words = ("gateway", "--config", str(self.directory / "forebay.toml"), "--port", "0")
        process, url = await self._start(*words, "--health-interval-s", "0.1", "--drain-delay-s", "0.3")
        running = Running(process, url, url)
        await running.until_ready()
        return running

    async def _start(self, *words: str) -> tuple[asyncio.subprocess.Process, str]:
        env = an_environment(self.directory) | {"API_KEYS": "sk-test" if words[0] == "gateway" else ""}
        return await self.stack.enter_async_context(serving(FOREBAY, *words, env=env))

    def tell_gateways(self) -> None:
        text = f"upstream = {json.dumps([engine.url for engine in self.engines])}\n"
        (self.directory / "next").write_text(text)
        os.replace(self.directory / "next", self.directory / "forebay.toml")
        for gateway in self.gateways:
            gateway.process.send_signal(signal.SIGHUP)

    async def until_known(self, number: int) -> None:
        """Wait until every gateway has so many engines, all of them ready."""
        async with asyncio.timeout(20):
            for gateway in self.gateways:
                while True:
                    replicas = (await fetch(gateway.url, "GET", "/health", **AUTH)).json()["replicas"]
                    if [one["ready"] for one in replicas if not one.get("draining")] == [True] * number:
                        break
                    await asyncio.sleep(0.02)


@asynccontextmanager
async def a_fleet(directory: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(directory, stack)
        fleet.engines = list(await asyncio.gather(fleet.agent(), fleet.agent()))
        fleet.tell_gateways()
        fleet.gateways = list(await asyncio.gather(fleet.gateway(), fleet.gateway()))
        await fleet.until_known(2)
        yield fleet


@dataclass
class Clients:
    """Each asks a gateway that is told of, again and again on one connection, until that says that it closes."""

    fleet: Fleet
    answered: int = 0
    streamed: int = 0
    failed: list[str] = field(default_factory=list)
    over: bool = False

    async def ask(self, number: int) -> None:
        turn = number
        while not self.over:
            turn += 1
            gateway = self.fleet.gateways[turn % len(self.fleet.gateways)]
            try:
                async with connect(gateway.url) as raw:
                    while not self.over and await self._once(raw, stream=bool(number % 2)):
                        pass
            except (OSError, TimeoutError) as failure:
                self.failed.append(repr(failure))

    async def _once(self, raw: RawConnection, *, stream: bool) -> bool:
        body = {"model": "m", "prompt": "stream" if stream else "whole", "max_tokens": 5, "stream": stream}
        await raw.request("POST", ASKED, body, AUTH)
        answer = await raw.read_response("POST")
        good = (answer.status, answer.ended) == (200, "complete")
        if stream and good:
            good = token_numbers(text_of(answer.events)) == list(range(5)) and b"[DONE]" in answer.body
            self.streamed += good
        if not good:
            self.failed.append(f"{answer.status} {answer.ended} {answer.body[-200:]!r}")
        self.answered += good
        await asyncio.sleep(0.02)
        return answer.header("connection") != "close"


async def test_gateways_and_engines_are_replaced_one_by_one_and_no_request_fails(tmp_path: Path) -> None:
    async with a_fleet(tmp_path) as fleet:
        clients = Clients(fleet)
        asking = [asyncio.create_task(clients.ask(number)) for number in range(6)]
        for number in range(2):  # maxSurge 1, maxUnavailable 0
            old = fleet.gateways[number]
            fleet.gateways[number] = await fleet.gateway()
            await old.end()
        after_gateways = clients.answered
        for number in range(2):
            old = fleet.engines[number]
            new = await fleet.agent()
            fleet.engines.append(new)
            fleet.tell_gateways()
            await fleet.until_known(3)
            fleet.engines[number] = fleet.engines.pop()
            fleet.tell_gateways()
            await fleet.until_known(2)
            await old.end()
        after_engines = clients.answered
        while clients.answered < after_engines + 50:  # by new processes alone
            await asyncio.sleep(0.01)
        clients.over = True
        await asyncio.gather(*asking)
        assert clients.failed == []
        assert 0 < after_gateways < after_engines
        assert clients.streamed > 0
