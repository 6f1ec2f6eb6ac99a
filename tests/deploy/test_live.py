"""A real Prometheus beside real gateways: every panel has data, and what breaks is told within half a minute.

All happens at once, to several gateways, in one run of Prometheus: the example's intervals are what is promised for.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import SecretStr

from forebay.monitoring.elsewhere import ELSEWHERE
from forebay.monitoring.uses import expressions
from forebay.telemetry import catalogue as m
from forebay.telemetry.catalogue import CATALOGUE
from tests.deploy.prometheus import Prometheus, prometheus
from tests.deploy.stand_in import stand_in
from tests.gateway.calls import CHAT, chat_body
from tests.gateway.conftest import KEY, Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import fetch
from tests.servers import ValkeyServer
from tests.store.databases import made

# What no gateway of this test has: engines and a GPU of its own, a certificate, tokens, budgets without Redis, traces;
# and what vLLM says. That the code exports each is tested where it does.
ABSENT = (
    *(one for one in CATALOGUE if one.name.startswith(("forebay_gpu_", "forebay_engine_"))),
    *(one for one in ELSEWHERE if one.name.startswith("vllm:")),
    *(m.CERTIFICATE_EXPIRY, m.KEY_EXPIRY, m.KEY_SET_FAILURES, m.BUDGETS_UNKNOWN, m.CONFIG_RELOADS, m.BATCH_LINES),
    m.TRACE_SPANS,
)


# What is broken below, as the alerts that tell it and the gateways that they are about.
TOLD = (
    ("EngineDown", "bereft"),
    ("NoEngineReady", "bereft"),
    ("BreakerOpen", "failing"),
    ("HighErrorRate", ""),
    ("LimitsHit", ""),
    ("TenantFlooding", ""),
    ("QueueSaturated", "full"),
    ("EngineStalled", "stalled"),
    ("GatewayDown", "gone"),
)


class World:
    """Gateways by name, each over an engine of its own, and clients that ask until the end."""

    def __init__(self, stack: AsyncExitStack, start: StartGateway) -> None:
        self._stack, self._start = stack, start
        self._clients: set[asyncio.Task[None]] = set()
        self.engines: dict[str, FakeEngine] = {}
        self.gateways: dict[str, Running] = {}

    async def add(self, name: str, *, engines: int = 1, **flags: Any) -> None:
        made = [await self._stack.enter_async_context(FakeEngine(token_delay_s=0.005)) for _ in range(engines)]
        self.engines[name] = made[0]
        urls = [*(engine.url for engine in made[:2]), *(f"{engine.url}#canary" for engine in made[2:])]
        flags = {"health_interval_s": 2.0, "prefill_target_s": 0.5, **flags}  # the first as it is by default
        self.gateways[name] = await self._stack.enter_async_context(self._start(*urls, **flags))

    def ask(self, name: str, each_s: float, *, clients: int = 1, key: str = KEY, **fields: Any) -> None:
        """Have clients ask a gateway again and again."""
        for number in range(clients):
            said = [{"role": "user", "content": f"conversation {number}"}]  # each group of replicas has some of them
            asked = {"stream": number % 2 == 0, "messages": said, **fields}
            client = self._client(self.gateways[name].url, key, each_s, asked)
            task = asyncio.get_running_loop().create_task(client)
            self._clients.add(task)

    async def _client(self, url: str, key: str, each_s: float, fields: dict[str, Any]) -> None:
        while True:
            with suppress(OSError, EOFError, TimeoutError):  # what becomes of the answer is not what is tested
                await fetch(url, "POST", CHAT, chat_body(**fields), authorization=f"Bearer {key}")
            await asyncio.sleep(each_s)

    async def end(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)


@asynccontextmanager
async def world(start_gateway: StartGateway, valkey: ValkeyServer, directory: Path) -> AsyncIterator[World]:
    database = f"sqlite:///{directory}/forebay.db"
    made(database).close()
    shared = {"redis_url": SecretStr(valkey.url), "cache_shared": True, "redis_timeout_s": 1.0}
    stored = {"database_url": SecretStr(database), "tenant_limits": {"concurrency": 10_000}}
    async with AsyncExitStack() as stack:
        here = World(stack, start_gateway)
        await here.add("well", engines=3, cache_models=("*",), engine_concurrency=4, **shared, **stored)
        await here.add("bereft")
        await here.add("failing")
        await here.add("flooded", api_keys=(KEY, "sk-flood"), key_limits={"requests_per_minute": 30})
        await here.add("full", engine_concurrency=2, max_queue_size=4)
        await here.add("stalled", engine_stall_s=2.0)
        await here.add("gone")
        yield here
        await here.end()


async def lose_engines_midway(here: World) -> None:
    """Have requests to the healthy gateway asked again, taken over and resumed: for ever so often an answer breaks."""
    while True:
        here.engines["well"].script(
            Behaviour(faults=[Fault("head", "reset")]), Behaviour(faults=[Fault("token", "reset", after=3)])
        )
        await asyncio.sleep(2)


async def break_and_see(here: World, prom: Prometheus) -> dict[str, float]:
    """Break each gateway in its way; return how long it took until the right alert fired."""
    await here.engines["bereft"].stop()
    here.engines["failing"].default = Behaviour(status=500)
    here.engines["full"].default = Behaviour(faults=[Fault("head", "hang")])
    here.engines["stalled"].default = Behaviour(faults=[Fault("head", "hang")])
    await here.gateways["gone"].stop()
    here.ask("failing", 0.2, clients=2)
    here.ask("flooded", 0.03, clients=3, key="sk-flood")
    here.ask("full", 0.5, clients=8)
    here.ask("stalled", 0.2)
    took = await asyncio.gather(*(prom.until_firing(*one) for one in TOLD))
    return {f"{name} {instance}".strip(): seconds for (name, instance), seconds in zip(TOLD, took, strict=True)}


def as_asked(expression: str) -> str:
    """A panel's expression as Grafana sends it: all chosen, and an interval of four scrapes."""
    return re.sub(r"\$(?!__)\w+", ".*", expression).replace("$__rate_interval", "20s")


async def without_data(prom: Prometheus) -> list[str]:
    """The panels whose expressions have none, of which all should; that of an alert need have none."""
    found = [(where, await prom.query(as_asked(expression))) for where, expression in expressions()]
    return sorted({where for where, result in found if not result and not where.startswith("alert/")})


async def test_what_breaks_is_told_within_half_a_minute_and_every_panel_has_data(
    start_gateway: StartGateway, valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with world(start_gateway, valkey, tmp_path) as here, stand_in(ABSENT) as page:
        targets = {name: running.url for name, running in here.gateways.items()}
        async with prometheus(tmp_path, {**targets, "page": page}, KEY) as prom:
            losing = asyncio.create_task(lose_engines_midway(here))
            here.ask("well", 0.3, clients=8, temperature=0)
            here.ask("well", 0.3, clients=8, temperature=1)
            await prom.until_scraped(3)
            assert not await prom.firing() & set(TOLD), "nothing is broken yet"
            print("seconds until each fired:", await break_and_see(here, prom))
            until = monotonic() + 60  # some rules are evaluated every 30 s
            while missing := await without_data(prom):
                assert monotonic() < until, missing
                await asyncio.sleep(1)
            alerts = (await prom.get("alerts"))["alerts"]
            told = [text for alert in alerts for text in alert["annotations"].values()]
            assert not [text for text in told if "<" in text], "a template went wrong"
            losing.cancel()
