"""Half an hour of mixed traffic with faults on one core: does anything grow, and do all counts agree?

usage: make soak, or python -m bench.soak [--minutes 30] [--core 0] [--rate 120]

`forebay gateway` on one core with a database, keys of five tenants, a small cache and a watched file of settings, which
change once a minute; two of the tests' fake engines, whose capacity is 1/0.7 of the rate; traffic and faults are those
of `bench/traffic.py`.

Every ten seconds /metrics are read; from a fifth of the run on, slopes are by least squares, with standard errors.
Bars: memory grows by less than 1 MB a minute (in a run of few minutes caches still fill); descriptors, tasks and
connections by nothing, which is asked twice: a slope not above three standard errors, and as many when all is quiet at
the end as when it was after the warm-up (load pauses for that). At the end nothing is under way, and the counts of
requests agree: the gateway's by status with the callers', its database's with its metrics', and its answers with what
the engines finished.
"""

import argparse
import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import correlation, fmean, linear_regression
from tempfile import TemporaryDirectory

import uvloop
from bench.traffic import KEYS, Traffic
from tests.gateway.raw_client import fetch
from tests.gateway.replacing import FOREBAY

SAMPLE_S, QUIET_S, RELOAD_S = 10.0, 9.0, 60.0
WARM_UP = 0.2  # of the run
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
FLAT, OVER = ("descriptors", "tasks", "connections"), ("active", "queued", "in flight")
SETTINGS = "max_queue_size = {}\ncache_models = ['fake-model']\ncache_max_bytes = 500000\nupstream_idle_s = 2\n"
Figures = dict[str, float]


class Soak:
    """One run. `samples` are seconds, requests so far and figures under load; `quiet` those without."""

    def __init__(self, directory: Path, rate: float, core: int) -> None:
        self.traffic = Traffic(rate)
        self.samples: list[tuple[float, int, Figures]] = []
        self.quiet: list[Figures] = []
        self.metrics = ""
        self.status = -1
        self.in_ledger = 0
        self._directory, self._core = directory, core
        self._file = directory / "forebay.toml"

    async def run(self, seconds: float) -> None:
        for engine in self.traffic.engines:
            await engine.start()
        self._file.write_text(SETTINGS.format(1000))
        gateway = await self._start()
        beside = (self.traffic.load(), self.traffic.trouble(), self._reload(gateway.pid))
        running = [asyncio.create_task(one) for one in beside]
        try:
            await self._load_for(WARM_UP * seconds)
            self.samples.clear()
            await self._load_for((1 - WARM_UP) * seconds)
            self.metrics = (await fetch(self.traffic.url, "GET", "/metrics")).body.decode()
        finally:
            for task in running:
                task.cancel()
            gateway.send_signal(signal.SIGTERM)
            self.status = await asyncio.to_thread(gateway.wait, 60)
        self.traffic.count()
        for engine in self.traffic.engines:
            await engine.stop()
        with closing(sqlite3.connect(self._directory / "forebay.db")) as database:
            self.in_ledger = database.execute("SELECT SUM(requests) FROM usage").fetchone()[0]

    async def _load_for(self, seconds: float) -> None:
        """Load and samples; then quiet, until connections to engines that nothing uses are closed, and one more."""
        self.traffic.loading.set()
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(SAMPLE_S, left_s))
            self.traffic.count()
            self.samples.append((time.monotonic(), self.traffic.sent, await self._figures()))
        await self.traffic.fall_silent()
        await asyncio.sleep(QUIET_S)
        quiet = []
        for _ in range(20):  # a health check may be under way
            quiet.append(await self._figures())
            await asyncio.sleep(0.2)
        self.quiet.append({name: min(figures[name] for figures in quiet) for name in WATCHED})

    async def _figures(self) -> Figures:
        text = (await fetch(self.traffic.url, "GET", "/metrics")).body.decode()
        told = {name: total(text, metric) for name, metric in WATCHED.items()}
        return {**told, "rss MB": told["rss MB"] / 1e6}

    async def _start(self) -> subprocess.Popen[bytes]:
        words = [FOREBAY, "gateway", "--config", str(self._file), "--port", "0"]
        words += ["--engine-concurrency", str(self.traffic.slots)]
        words += [word for engine in self.traffic.engines for word in ("--upstream", engine.url)]
        own = {"API_KEYS": ",".join(KEYS), "DATABASE_URL": f"sqlite:///{self._directory}/forebay.db"}
        own |= {"FOREBAY_HOME": str(self._directory), "FOREBAY_METRICS_PUBLIC": "true"}
        with (self._directory / "log").open("wb") as log:
            gateway = subprocess.Popen(
                ["taskset", "-c", str(self._core), *words],
                env={**os.environ, **own},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert gateway.stdout is not None
        self.traffic.url = gateway.stdout.readline().decode().split()[-1]
        while (await fetch(self.traffic.url, "GET", "/readyz")).status != 200:
            await asyncio.sleep(0.05)
        return gateway

    async def _reload(self, pid: int) -> None:
        number = 1000
        while True:
            await asyncio.sleep(RELOAD_S)
            number += 1
            self._file.write_text(SETTINGS.format(number))
            os.kill(pid, signal.SIGHUP)


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


def judge(soak: Soak) -> list[str]:
    """Print the table, and return the bars that were missed."""
    missed = []
    print("| figure | quiet, before and after | a minute | per 10,000 requests |\n| --- | --- | --- | --- |")
    for name in WATCHED:
        ys = [figures[name] for _, _, figures in soak.samples]
        minute, error = slope([at / 60 for at, _, _ in soak.samples], ys)
        each, each_error = slope([sent / 1e4 for _, sent, _ in soak.samples], ys)
        first, last = (quiet[name] for quiet in soak.quiet)
        told = f"{minute:+.3f} ± {error:.3f} | {each:+.3f} ± {each_error:.3f}"
        print(f"| {name} | {first:.1f}, {last:.1f} | {told} |")
        if name == "rss MB" and minute >= RSS_MB_A_MINUTE:
            missed.append(f"memory grows by {minute:.2f} MB a minute")
        if name in FLAT and (last > first or minute > ERRORS * error):
            missed.append(f"{name}: {first:g} before, {last:g} after, {minute:+.3f} ± {error:.3f} a minute")
        if name in OVER and last:
            missed.append(f"{last:g} {name} at the end")
    return missed + disagreements(soak)


def disagreements(soak: Soak) -> list[str]:
    """Where counts differ that must not. Whoever left may have been answered all the same, with any status."""
    gateway: Counter[str] = Counter()
    counted = re.findall(r'^forebay_requests_total\{.*status="(\d+)".*\} (\S+)$', soak.metrics, re.MULTILINE)
    for status, value in counted:
        gateway[status] += int(float(value))
    callers = Counter(soak.traffic.ends)
    left, gone = callers.pop("left", 0), gateway.pop("499", 0)
    print(f"callers {dict(callers)}, {left} left; gateway {dict(gateway)}, {gone} left")
    known = gateway.total() + gone - gateway["401"] - gateway["429"]  # nobody else has a limit than who shows no key
    replayed = total(soak.metrics, "forebay_cache_requests_total", '"hit"')
    by_engines, finished, beside = gateway["200"] - replayed, soak.traffic.finished, gateway - callers
    print(f"in the ledger {soak.in_ledger} of {known}; engines finished {finished}, {replayed:g} were in the cache")
    wrong = {
        f"callers saw what the gateway did not count: {callers - gateway}": callers - gateway,
        f"the gateway counted {beside.total()} + {gone} that left": beside.total() + gone != left,
        f"the ledger has {soak.in_ledger} of {known}": soak.in_ledger != known,
        f"engines finished {finished}, not {by_engines:g} or up to {gone} more": not 0 <= finished - by_engines <= gone,
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

        async def run() -> Soak:
            soak = Soak(Path(name), options.rate, options.core)
            await soak.run(options.minutes * 60)
            return soak

        missed = judge(uvloop.run(run()))
        log = (Path(name) / "log").read_text()
    print("in the log:", dict(Counter(re.findall(r'"level":"(?:error|warning)".*?"message":"([^"]*)"', log))))
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
