"""Fifty drains and fifty reloads under load: does a request fail?

usage: make bench-drains, or python -m bench.drains [--times 50] [--way socket] [--way polling]

Clients ask at random (Poisson) at 0.7 of what the tests' fake engine can do, streams and whole answers, half of them on
connections that are kept. Meanwhile the settings change (SIGHUP and the watched file, in turn), and the gateway, a
process of its own, is replaced by another and told to end (SIGTERM), again and again:

    socket   both are at the same listening socket, as systemd passes it
    polling  each has a port of its own and a `drain_delay_s` of 1.5 s; clients ask /readyz once a second, as a load
             balancer does, and go to those that were ready

Bars: no request fails; each process ends with 0; and a second SIGTERM ends one with a request that hangs within 2 s.
"""

import argparse
import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import uvloop
from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import RawConnection, connect, fetch, text_of, token_numbers
from tests.gateway.replacing import Place, place

SLOTS, TOKENS, TOKEN_DELAY_S = 16, 10, 0.02
CAPACITY = SLOTS / (TOKENS * TOKEN_DELAY_S)
SECOND_SIGNAL_S = 2.0
POLL_S, DELAY_S = 1.0, 1.5


@dataclass
class Result:
    """What became of requests, processes and reloads."""

    ends: Counter[str] = field(default_factory=Counter)
    drains: list[tuple[int, float]] = field(default_factory=list)  # exit status and seconds
    reloads: int = 0
    second_signals: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.ends.total() - self.ends["answered"]

    def misses(self, times: int) -> list[str]:
        """The bars that were missed."""
        found = {
            f"{self.failed} requests failed: {dict(self.ends)}": self.failed,
            f"exit statuses {[status for status, _ in self.drains]}": any(status for status, _ in self.drains),
            f"{self.reloads} reloads of {times}": self.reloads < times,
            f"second signals took {self.second_signals} s": max(self.second_signals, default=0.0) > SECOND_SIGNAL_S,
        }
        return [what for what, missed in found.items() if missed]


class Clients:
    """An open loop at 0.7 of the engine's capacity. `urls` is where to ask."""

    def __init__(self, urls: list[str], ends: Counter[str]) -> None:
        self.urls = urls
        self._ends = ends
        self._kept: list[tuple[str, AsyncExitStack, RawConnection]] = []
        self._random = random.Random(7)

    async def run(self) -> None:
        """Until cancelled; what has begun is waited for."""
        due, began, number = 0.0, monotonic(), 0
        async with asyncio.TaskGroup() as asking:
            with suppress(asyncio.CancelledError):
                while True:
                    due += self._random.expovariate(0.7 * CAPACITY)
                    await asyncio.sleep(began + due - monotonic())
                    number += 1
                    asking.create_task(self._ask(number))
        for _, stack, _ in self._kept:
            await stack.aclose()

    async def _ask(self, number: int) -> None:
        try:
            self._ends[await self._answered(stream=bool(number % 2), keeps=number % 4 > 1)] += 1
        except (OSError, TimeoutError) as failure:
            self._ends[type(failure).__name__] += 1

    async def _answered(self, *, stream: bool, keeps: bool) -> str:
        url, stack, raw = await self._connection(keeps=keeps)
        await raw.request("POST", CHAT, chat_body(max_tokens=TOKENS, stream=stream), AUTH)
        answer = await raw.read_response("POST")
        if keeps and answer.ended == "complete" and answer.header("connection") != "close":
            self._kept.append((url, stack, raw))
        else:
            await stack.aclose()
        if (answer.status, answer.ended) != (200, "complete"):
            return f"{answer.status} {answer.ended}"
        whole = not stream or token_numbers(text_of(answer.events)) == list(range(TOKENS))
        return "answered" if whole else "not whole"

    async def _connection(self, *, keeps: bool) -> tuple[str, AsyncExitStack, RawConnection]:
        """One that was kept, unless it was closed meanwhile: a client looks before it sends. Else a new one."""
        while keeps and self._kept:
            url, stack, raw = self._kept.pop()
            if url in self.urls and _is_open(raw):
                return url, stack, raw
            await stack.aclose()
        url, stack = self._random.choice(self.urls), AsyncExitStack()
        return url, stack, await stack.enter_async_context(connect(url))


def _is_open(raw: RawConnection) -> bool:
    try:
        raw.sock.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


@asynccontextmanager
async def asking(urls: list[str], ends: Counter[str]) -> AsyncIterator[None]:
    running = asyncio.create_task(Clients(urls, ends).run())
    try:
        yield
    finally:
        running.cancel()
        await running


async def reload(one: Place, file: Path, number: int, by_signal: bool) -> None:
    """Change the settings, and wait until they are followed."""
    assert one.process is not None
    file.write_text(f"max_queue_size = {1000 + number}\n")
    if by_signal:
        one.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(20):
        while not (await fetch(one.url, "GET", "/health", **AUTH)).json()["config"]["reloads"]["ok"]:
            await asyncio.sleep(0.05)


async def by_socket(engine: FakeEngine, times: int, file: Path) -> Result:
    result = Result()
    async with (
        place("gateway", "--config", str(file), "--upstream", engine.url) as one,
        asking([one.url], result.ends),
    ):
        for number in range(times):
            await reload(one, file, number, by_signal=bool(number % 2))
            result.reloads += 1
            await one.replace()
        result.drains = one.ends
    return result


async def by_polling(engine: FakeEngine, times: int, file: Path) -> Result:
    result, urls = Result(), [""]
    words = ("gateway", "--config", str(file), "--upstream", engine.url, "--drain-delay-s", str(DELAY_S))
    async with AsyncExitStack() as stack:
        places = [await stack.enter_async_context(place(*words))]
        urls[0] = places[0].url

        async def poll() -> None:
            while True:
                ready = [one.url for one in list(places) if await _is_ready(one.url)]
                urls[:] = ready or urls
                await asyncio.sleep(POLL_S)

        polling = asyncio.create_task(poll())
        async with asking(urls, result.ends):
            for number in range(times):
                await reload(places[-1], file, number, by_signal=bool(number % 2))
                result.reloads += 1
                places.append(await stack.enter_async_context(place(*words)))
                async with asyncio.timeout(20):
                    while places[-1].url not in urls:
                        await asyncio.sleep(0.05)
                await _drain(places[0], result)  # it is asked meanwhile, and says that it is not ready
                del places[0]
        polling.cancel()
    return result


async def _drain(one: Place, result: Result) -> None:
    assert one.process is not None
    one.sock.close()  # ours: with it closed, who comes after the drain is refused
    await one.end(one.process)
    result.drains += one.ends


async def _is_ready(url: str) -> bool:
    try:
        return (await fetch(url, "GET", "/readyz")).status == 200
    except (OSError, TimeoutError):
        return False


async def second_signal(engine: FakeEngine) -> float:
    """Seconds until a gateway has ended that was told so twice while a request hangs."""
    engine.script(Behaviour(faults=[Fault("head", "hang")]))
    async with place("gateway", "--upstream", engine.url, "--drain-timeout-s", "60") as one:
        assert one.process is not None
        hanging = asyncio.create_task(fetch(one.url, "POST", CHAT, chat_body(), **AUTH))
        await engine.wait_for(lambda e: e.running == 1)
        one.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        began = monotonic()
        one.process.send_signal(signal.SIGTERM)
        assert await one.process.wait() == 0
        took_s = monotonic() - began
        assert (await hanging).status == 503
    return took_s


WAYS = {"socket": by_socket, "polling": by_polling}


async def measure(way: str, times: int, signals: int) -> Result:
    with TemporaryDirectory(prefix="forebay-drains-") as directory:
        file = Path(directory) / "forebay.toml"
        file.write_text("max_queue_size = 999\n")
        async with FakeEngine(slots=SLOTS, token_delay_s=TOKEN_DELAY_S, tokens=TOKENS) as engine:
            result = await WAYS[way](engine, times, file)
            result.second_signals = [await second_signal(engine) for _ in range(signals)]
    return result


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--way", action="append", choices=WAYS, help="both, where none is named")
    options = parser.parse_args()
    missed = False
    for way in options.way or WAYS:
        result = await measure(way, options.times, signals=min(options.times, 5))
        print(
            f"{way:8} {len(result.drains)} drains and {result.reloads} reloads under {0.7 * CAPACITY:.0f} requests/s: "
            f"{result.failed} of {result.ends.total()} failed; longest drain "
            f"{max(took_s for _, took_s in result.drains):.1f} s; statuses {Counter(s for s, _ in result.drains)}; "
            f"second SIGTERM {max(result.second_signals):.2f} s at most of {len(result.second_signals)}",
            flush=True,
        )
        for what in result.misses(options.times):
            missed = True
            print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
