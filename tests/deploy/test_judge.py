"""judge.py over a real Prometheus and a real gateway: a canary whose failures callers never see is found out."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.deploy.cluster import SCRIPTS
from tests.deploy.prometheus import prometheus
from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine
from tests.gateway.raw_client import fetch


async def judge(url: str, *words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, SCRIPTS / "judge.py", *words, "--prometheus", url, "--every", "0.5"), stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode().strip()


async def test_a_canary_that_fails_is_worse_though_no_caller_sees_it(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    statuses: set[int] = set()

    async def client(url: str) -> None:
        with suppress(OSError):
            while True:
                answer = await fetch(url, "POST", CHAT, chat_body(stream=True, max_tokens=2), **AUTH)
                statuses.add(answer.status)
                await asyncio.sleep(0.01)

    async with FakeEngine() as stable, FakeEngine() as canary:
        # Neither is left alone for its failures, so that it goes on failing; nor is a retry refused.
        calm = {"breaker_failures": 10**6, "breaker_ratio": 1.0}
        groups = (f"{stable.url}#m", f"{canary.url}#m-canary")
        async with start_gateway(*groups, **calm) as running, prometheus(tmp_path, {"gw": running.url}, KEY) as prom:
            clients = [asyncio.create_task(client(running.url)) for _ in range(4)]
            await prom.until_scraped(2)
            asked = ("canary", "--model", "fake-model", "--group", "m-canary", "--min-requests", "20")
            status, told = await judge(prom.url, *asked, "--watch", "3", "--latency-factor", "100")
            assert (status, told.partition(":")[0]) == (0, "no worse"), told

            canary.script(*[Behaviour() if n % 5 else Behaviour(status=500) for n in range(20_000)])
            status, told = await judge(prom.url, *asked, "--watch", "20", "--latency-factor", "100")
            assert (status, told.partition(":")[0]) == (1, "worse"), told
            assert "of the others'" in told

            status, told = await judge(prom.url, *asked, "--watch", "1", "--match", 'instance="elsewhere"')
            assert (status, told) == (3, "not judged: 0 requests, and 20 are wanted")
            for one in clients:
                one.cancel()
    assert statuses == {200}
