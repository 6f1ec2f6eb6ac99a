"""E5 at length: nobody sees a byte of another tenant's, while a shared cache is slow, cut and reset meanwhile."""

import asyncio
import json
import random
import re
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from tests.gateway.calls import CHAT, chat_body
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import connect, text_of
from tests.robustness.test_tenants import keys, salted
from tests.servers import ValkeyServer
from tests.store.proxy import Proxy

SALT = re.compile(rb"<([A-Za-z0-9_-]{43})>")


class Misfortunes:
    """What happens on the way to the cache, as drawn from a seed, until it is cancelled."""

    def __init__(self, proxy: Proxy, kinds: tuple[str, ...], seed: int) -> None:
        self.proxy = proxy
        self.kinds = kinds
        self.random = random.Random(seed)
        self.counts = Counter[str]()

    async def run(self) -> None:
        while True:
            name = self.random.choice(self.kinds)
            self.counts[name] += 1
            self.proxy.delay_s = {"slow": self.random.uniform(0, 0.02), "too slow": 0.3}.get(name, 0.0)
            self.proxy.halves = name == "halves"
            if name == "reset":
                self.proxy.drop()
            await asyncio.sleep(self.random.uniform(0.05, 0.2))
            self.proxy.accept()


class Callers:
    """Workers that ask as twenty tenants and remember whose answers they had; some leave at a time of their own."""

    def __init__(self, urls: list[str], count: int, seed: int) -> None:
        self.urls = urls
        self.left = count
        self.random = random.Random(seed)
        self.salts: dict[str, set[str]] = {key: set() for key in keys(20)}
        self.counts = Counter[str]()

    async def work(self) -> None:
        while self.left > 0:
            self.left -= 1
            await self.ask(self.random.choice(keys(20)), stream=self.random.random() < 0.4)

    async def ask(self, key: str, *, stream: bool) -> None:
        question = f"Question {self.random.randrange(6 if self.random.random() < 0.9 else 100_000)}?"
        messages = [{"role": "user", "content": question}]
        body = chat_body(messages=messages, temperature=0, max_tokens=3, stream=stream)
        async with connect(self.random.choice(self.urls)) as raw:
            await raw.request("POST", CHAT, body, {"authorization": f"Bearer {key}"})
            if self.random.random() < 0.15:
                await asyncio.sleep(self.random.uniform(0, 0.03))
                self.counts["left"] += 1
                return
            answer = await raw.read_response("POST")
        assert answer.status == 200, answer.body
        text = text_of(answer.events) if stream else answer.json()["choices"][0]["message"]["content"]
        self.salts[key].add(text[text.index("<") : text.index(">") + 1])
        self.counts["answered"] += 1


def cached(running: Running) -> float:
    return sum(value for name, value in running.figures().items() if "cache" in name and '"hit"' in name)


async def ask_all(callers: Callers, misfortunes: Misfortunes) -> None:
    proxy = misfortunes.proxy
    happening = asyncio.create_task(misfortunes.run())
    try:
        await asyncio.gather(*(callers.work() for _ in range(24)))
    finally:
        happening.cancel()
        with suppress(asyncio.CancelledError):
            await happening
        proxy.accept()
        proxy.delay_s, proxy.halves = 0.0, False


ALL = ("slow", "slow", "slow", "nothing", "too slow", "reset", "halves")


@pytest.mark.parametrize(
    ("count", "kinds", "patience_s"),
    [
        (500, ("slow", "nothing"), 2.0),
        pytest.param(10_000, ALL, 0.1, marks=[pytest.mark.robustness, pytest.mark.timeout(300)]),
    ],
    ids=["slow", "all of it"],
)
async def test_no_answer_entry_line_or_figure_has_a_byte_of_another_tenants(
    start_gateway: StartGateway, valkey: ValkeyServer, count: int, kinds: tuple[str, ...], patience_s: float
) -> None:
    flags: dict[str, Any] = {"api_keys": keys(20), "cache_models": ("*",), "cache_shared": True}
    flags |= {"redis_timeout_s": patience_s, "engine_concurrency": 32, "max_queue_size": 256}
    async with FakeEngine() as engine, Proxy(valkey.port) as proxy:
        engine.on(CHAT, salted)
        flags["redis_url"] = proxy.url
        async with start_gateway(engine.url, **flags) as one, start_gateway(engine.url, **flags) as other:
            callers, misfortunes = Callers([one.url, other.url], count, 5), Misfortunes(proxy, kinds, 5)
            await ask_all(callers, misfortunes)
            while one.gateway.pipeline.running or other.gateway.pipeline.running:
                await asyncio.sleep(0.01)
            hits, figures = cached(one) + cached(other), json.dumps([one.figures(), other.figures()])
            log = one.log_file.read_bytes()
    entries = [valkey.client.get(key) or b"" for key in valkey.client.scan_iter(b"forebay:cache:entry:*")]
    own = [salts for salts in callers.salts.values() if salts]
    print(dict(callers.counts), dict(misfortunes.counts), f"{hits:.0f} hits, {len(entries)} entries shared")
    assert [len(salts) for salts in own] == [1] * len(own), "nobody was ever told two tenants' answers"
    assert len(set().union(*own)) == len(own) >= 15
    assert all(len(set(SALT.findall(entry))) == 1 for entry in entries)
    assert hits > count / 10, "the cache was in it"
    assert entries
    for salt in set().union(*own):
        assert salt[1:-1].encode() not in log
        assert salt[1:-1] not in figures
