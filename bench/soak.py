"""Half an hour of mixed traffic with faults on one core: does anything grow, and do all counts agree?

usage: make soak, or python -m bench.soak [--minutes 30] [--core 0] [--rate 120]

`forebay gateway` on one core with a database, keys of five tenants, a small cache and a watched file of settings; two
of the tests' fake engines, whose capacity is 1/0.7 of the rate. Requests come at random (Poisson): chats and
completions, whole and streamed, embeddings, repeated ones that the cache answers, posts to conversations, bodies that
are none, wrong keys. One in twenty is left by its caller within the answer, one in twenty is cut by its engine within
it, each engine in turn is gone for two seconds a minute, and the settings change once a minute.

Every ten seconds /metrics are read; from the fifth part of the run on, slopes are by least squares, with their standard
errors. Bars: memory grows by less than 1 MB a minute; descriptors, tasks and connections by nothing, which is asked
twice: a slope not above three standard errors, and as many when all is quiet at the end as when it was after the
warm-up (load pauses for that). At the end nothing is under way, and the counts of requests agree: the gateway's by
status with the callers', its database's with its metrics', its answered attempts with the engines' finished ones.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from statistics import correlation, fmean, linear_regression
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
from tests.gateway.fake_engine import GENERATING, Behaviour, FakeEngine, Fault, Record
from tests.gateway.raw_client import fetch
from tests.gateway.replacing import FOREBAY

from forebay.upstream.questions import WARM_PROMPT

KEYS, TOKENS, TOKEN_DELAY_S, SAMPLE_S, QUIET_S = [f"sk-{number}" for number in range(5)], 8, 0.02, 10.0, 9.0
RSS_MB_A_MINUTE, ERRORS = 1.0, 3.0
WATCHED = {
    "rss MB": "process_resident_memory_bytes",
    "descriptors": "process_open_fds",
    "tasks": "forebay_tasks",
    "connections": "forebay_connections",
    "active": "forebay_active_requests",
    "queued": "forebay_queue_requests",
    "in flight": "forebay_replica_in_flight",
}
FLAT = ("descriptors", "tasks", "connections")
MADE, POSTED = "conversations 201", "conversations 200"
SETTINGS = "max_queue_size = {}\ncache_models = ['fake-model']\ncache_max_bytes = 500000\nupstream_idle_s = 2\n"


class Soak:
    """One run's gateway, callers and engines, and what they count."""

    def __init__(self, directory: Path, rate: float, core: int) -> None:
        slots = round(rate / 0.7 * TOKENS * TOKEN_DELAY_S / 2)
        self.engines = [FakeEngine(slots=slots, token_delay_s=TOKEN_DELAY_S, tokens=TOKENS) for _ in range(2)]
        self.ends: Counter[str] = Counter()  # by callers: statuses, or that they left
        self.finished = 0  # by engines
        self.samples: list[tuple[float, int, dict[str, float]]] = []  # seconds, requests so far, figures
        self.quiet: list[dict[str, float]] = []
        self._directory, self._rate, self._slots, self._core = directory, rate, slots, core
        self._random = random.Random(7)
        self._conversations: list[str] = []
        self._loading = asyncio.Event()
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self, minutes: float) -> None:
        for engine in self.engines:
            engine.default = self._behaviour
            await engine.start()
        self._file, seconds, began = self._directory / "forebay.toml", minutes * 60, time.monotonic()
        self._file.write_text(SETTINGS.format(1000))
        gateway = await self._start()
        running = [asyncio.create_task(one) for one in (self._load(), self._trouble(gateway.pid))]
        try:
            for end_s in (0.2 * seconds, seconds):
                self._loading.set()
                while (now := time.monotonic() - began) < end_s:
                    await asyncio.sleep(min(SAMPLE_S, max(end_s - now, 0.1)))
                    for engine in self.engines:
                        self._count(engine)
                    if end_s == seconds:
                        self.samples.append((time.monotonic() - began, self.ends.total(), await self.figures()))
                await self._fall_silent()
                quiet = [await self.figures() for _ in range(20) if not await asyncio.sleep(0.2)]
                self.quiet.append({name: min(figures[name] for figures in quiet) for name in WATCHED})
            self.metrics = (await fetch(self.url, "GET", "/metrics")).body.decode()
        finally:
            for task in running:
                task.cancel()
            gateway.send_signal(signal.SIGTERM)
            self.status = await asyncio.to_thread(gateway.wait, 60)
        for engine in self.engines:
            self._count(engine)
            await engine.stop()

    async def figures(self) -> dict[str, float]:
        text = (await fetch(self.url, "GET", "/metrics")).body.decode()
        told = {name: total(text, metric) for name, metric in WATCHED.items()}
        return {**told, "rss MB": told["rss MB"] / 1e6}

    async def _start(self) -> subprocess.Popen[bytes]:
        words = [FOREBAY, "gateway", "--config", str(self._file), "--port", "0", "--engine-concurrency"]
        words += [str(self._slots), *(word for engine in self.engines for word in ("--upstream", engine.url))]
        own = {"API_KEYS": ",".join(KEYS), "DATABASE_URL": f"sqlite:///{self._directory}/forebay.db"}
        own |= {"FOREBAY_HOME": str(self._directory), "FOREBAY_METRICS_PUBLIC": "true"}
        gateway = subprocess.Popen(
            ["taskset", "-c", str(self._core), *words], env={**os.environ, **own}, stdout=subprocess.PIPE,
            stderr=(self._directory / "log").open("wb"),
        )  # fmt: skip
        assert gateway.stdout is not None
        self.url = gateway.stdout.readline().decode().split()[-1]
        while (await fetch(self.url, "GET", "/readyz")).status != 200:
            await asyncio.sleep(0.05)
        return gateway

    async def _fall_silent(self) -> None:
        """Until nobody asks, and connections to engines that nothing uses are closed."""
        self._loading.clear()
        await asyncio.gather(*self._asking)
        await asyncio.sleep(QUIET_S)

    def _behaviour(self, record: Record) -> Behaviour:
        drawn = self._random.random()
        where, how = self._random.choice([("mid_event", "reset"), ("token", "close"), ("head", "reset")])
        fault: Any = Fault(where, how, after=0 if where == "head" or not record.body.get("stream") else 3)
        return Behaviour(faults=[fault] if drawn < 0.05 else [])

    def _count(self, engine: FakeEngine) -> None:
        over = [one for one in engine.requests if one.outcome != "running"]
        ours = [one for one in over if one.path in GENERATING and one.body.get("prompt") != WARM_PROMPT]
        self.finished += sum(one.outcome == "finished" for one in ours)
        engine.requests[:] = [one for one in engine.requests if one.outcome == "running"]

    # What happens to the gateway
    async def _trouble(self, pid: int) -> None:
        number = 0
        while True:
            for engine in self.engines:
                await asyncio.sleep(28)
                if self._loading.is_set():
                    self._count(engine)
                    await engine.stop()
                await asyncio.sleep(2)
                if engine._server is None:
                    await engine.start()
            number += 1
            self._file.write_text(SETTINGS.format(1000 + number))
            os.kill(pid, signal.SIGHUP)

    # What callers do
    async def _load(self) -> None:
        due = time.monotonic()
        while True:
            if not self._loading.is_set():
                await self._loading.wait()
                due = time.monotonic()
            due += self._random.expovariate(self._rate)
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.create_task(self._ask())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self) -> None:
        path, body, key = self._request()
        leaves = self._random.random() < 0.05
        try:
            self.ends[await self._answer(path, body, key, leaves)] += 1
        except OSError as failure:
            self.ends[type(failure).__name__] += 1

    def _request(self) -> tuple[str, bytes, str]:
        draw, key = self._random.random(), self._random.choice(KEYS)
        words = f"soak {self._random.randrange(100_000)} tell me a story"
        chat: dict[str, Any] = {"model": "fake-model", "max_tokens": TOKENS, "stream": draw < 0.4}
        said = {"messages": [{"role": "user", "content": words}], "temperature": 1}
        if draw < 0.55:
            return "/v1/chat/completions", json.dumps(chat | said).encode(), key
        if draw < 0.7:
            return "/v1/completions", json.dumps({**chat, "stream": draw < 0.62, "prompt": words}).encode(), key
        if draw < 0.78:
            return "/v1/embeddings", json.dumps({"model": "fake-model", "input": words}).encode(), key
        if draw < 0.88:
            again = [{"role": "user", "content": f"soak {self._random.randrange(20)}"}]
            return "/v1/chat/completions", json.dumps({**chat, "temperature": 0, "messages": again}).encode(), key
        if draw < 0.93 and (told := self._conversation()) is not None:
            return told
        if draw < 0.97:
            return "/v1/chat/completions", self._random.choice([b"{", b"[]", b'{"model":"fake-model"}', b"\xff"]), key
        return "/v1/chat/completions", json.dumps({**chat, **said}).encode(), "sk-wrong"

    def _conversation(self) -> tuple[str, bytes, str] | None:
        """A post to a conversation, or what makes another; each has a few posts."""
        if len(self._conversations) < 5 or self._random.random() < 0.1:
            return "/v1/conversations", b'{"model":"fake-model","ttl_s":60}', KEYS[0]
        conversation = self._conversations[self._random.randrange(-5, 0)]
        return f"/v1/conversations/{conversation}/messages", b'{"content":"soak","max_tokens":8}', KEYS[0]

    async def _answer(self, path: str, body: bytes, key: str, leaves: bool) -> str:
        head = f"POST {path} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        relayed = "conversations" not in path
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            writer.write(head.encode() + body)
            if leaves and relayed:
                await asyncio.sleep(self._random.random() * TOKENS * TOKEN_DELAY_S)
                return "left"
            answer = b""
            with suppress(ConnectionResetError):
                while data := await reader.read(65536):
                    answer += data
        status = answer[9:12].decode() or "nothing"
        if path == "/v1/conversations" and status == "201":
            self._conversations.append(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])
        return status if relayed else f"conversations {status}"


def total(text: str, metric: str, label: str = "") -> float:
    lines = re.findall(rf"^{metric}(?:\{{([^}}]*)\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in lines if label in labels)


def slope(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """By least squares, and its standard error."""
    if len(xs) < 3 or len(set(ys)) == 1:
        return 0.0, 0.0
    spread = sum((x - fmean(xs)) ** 2 for x in xs)
    rest = (1 - correlation(xs, ys) ** 2) * sum((y - fmean(ys)) ** 2 for y in ys)
    return linear_regression(xs, ys).slope, (max(rest, 0.0) / (len(xs) - 2) / spread) ** 0.5


def judge(soak: Soak, ledger: int) -> list[str]:
    """Print the table, and return the bars that were missed."""
    missed = []
    seconds = [at for at, _, _ in soak.samples]
    print(
        "| figure | quiet, after warm-up and at the end | a minute | per 10,000 requests |\n| --- | --- | --- | --- |"
    )
    for name in WATCHED:
        ys = [figures[name] for _, _, figures in soak.samples]
        minute, error = slope([at / 60 for at in seconds], ys)
        each, each_error = slope([count / 1e4 for _, count, _ in soak.samples], ys)
        first, last = (quiet[name] for quiet in soak.quiet)
        told = f"{minute:+.3f} ± {error:.3f} | {each:+.3f} ± {each_error:.3f}"
        print(f"| {name} | {first:.1f}, {last:.1f} | {told} |")
        if name == "rss MB" and minute >= RSS_MB_A_MINUTE:
            missed.append(f"memory grows by {minute:.2f} MB a minute")
        if name in FLAT and (last > first or minute > ERRORS * error):
            missed.append(f"{name}: {first:g} before, {last:g} after, {minute:+.3f} ± {error:.3f} a minute")
        if name in ("active", "queued", "in flight") and last:
            missed.append(f"{last:g} {name} at the end")
    return missed + disagreements(soak, ledger)


def disagreements(soak: Soak, ledger: int) -> list[str]:
    """Where counts differ that must not. Whoever left may have been answered all the same, with any status."""
    gateway: Counter[str] = Counter()
    for status, value in re.findall(
        r'^forebay_requests_total\{.*status="(\d+)".*\} (\S+)$', soak.metrics, re.MULTILINE
    ):
        gateway[status] += int(float(value))
    callers = Counter({end: number for end, number in soak.ends.items() if end != MADE})
    callers["200"] += callers.pop(POSTED, 0)
    left, gone, unknown = callers.pop("left", 0), gateway.pop("499", 0), gateway["401"] + gateway["429"]
    print(f"callers {dict(callers)}, {left} left\ngateway {dict(gateway)}, {gone} left; in the ledger {ledger}")
    replayed = total(soak.metrics, "forebay_cache_requests_total", '"hit"')
    print(f"engines finished {soak.finished}, {replayed:g} answers came from the cache")
    beside = gateway - callers
    wrong = {
        f"callers saw {callers - gateway} that the gateway did not count": callers - gateway,
        f"the gateway counted {beside.total()} + {gone} that left, callers {left}": beside.total() + gone != left,
        f"the ledger has {ledger} of {gateway.total() + gone - unknown}": ledger != gateway.total() + gone - unknown,
        f"{soak.finished} answers by engines": not 0 <= soak.finished - (gateway["200"] - replayed) <= gone,
        f"the gateway ended with {soak.status}": soak.status,
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--rate", type=float, default=120.0, help="requests/s")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="forebay-soak-") as name:
        directory = Path(name)

        async def run() -> Soak:
            soak = Soak(directory, options.rate, options.core)
            await soak.run(options.minutes)
            return soak

        soak = uvloop.run(run())
        with closing(sqlite3.connect(directory / "forebay.db")) as database:
            ledger: int = database.execute("SELECT SUM(requests) FROM usage").fetchone()[0]
        log = (directory / "log").read_text()
        print(Counter(re.findall(r'"level":"(?:error|warning)".*?"message":"([^"]*)"', log)))
    missed = judge(soak, ledger)
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
