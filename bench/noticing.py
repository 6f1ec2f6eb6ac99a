"""How soon is an engine noticed that is killed, and one that is stopped? Under load, with two engines.

usage: make bench-noticing, or python -m bench.noticing [--times 5] [--engine-stall-s 5]

`forebay serve` over two of the tests' fake engines as processes of its own. A hundred callers ask again and again,
whole answers and streams in turn; half of them are at an engine, half wait. Then one engine's process gets SIGKILL,
or SIGSTOP, and the time is taken until its replica is out of rotation, and until each request that was under way at
that moment has its answer. Bars: nobody is refused or cut off; out of rotation within 1 s, and within `engine_stall_s`
and 1 s; the last answer within 2 s of that, and what the load itself takes.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import uvloop
from tests.e2e.conftest import command_of, descendants
from tests.gateway.raw_client import fetch, text_of, token_numbers
from tests.gateway.replacing import FOREBAY
from tests.gateway.test_agent import an_environment

CALLERS, TOKENS, TOKEN_DELAY_S = 100, 25, 0.02
ONE_S = 2 * TOKENS * TOKEN_DELAY_S  # in the queue, and at the engine
PATH = "/v1/completions"
ENGINE = f"""
import asyncio, sys
from tests.gateway.fake_engine import FakeEngine

def option(name):
    return sys.argv[sys.argv.index(name) + 1]

async def main():
    names = [option("--served-model-name")]
    async with FakeEngine(uds=option("--uds"), models=names, tokens={TOKENS}, token_delay_s={TOKEN_DELAY_S}):
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Callers:
    """A closed loop. `under_way` is when each began that has no answer yet."""

    def __init__(self, url: str) -> None:
        self.ends: Counter[str] = Counter()
        self.under_way: dict[int, float] = {}
        self._url = url
        self._asking = [asyncio.create_task(self._ask(number)) for number in range(CALLERS)]

    async def stop(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def until_answered(self, began: dict[int, float]) -> None:
        """Return when all of those that were under way have ended."""
        while any(self.under_way.get(number) == at for number, at in began.items()):
            await asyncio.sleep(0.005)

    async def _ask(self, number: int) -> None:
        stream = bool(number % 2)
        body = {"model": "m", "prompt": f"caller {number}", "max_tokens": TOKENS, "stream": stream}
        while True:
            self.under_way[number] = monotonic()
            try:
                answer = await fetch(self._url, "POST", PATH, body)
                said = text_of(answer.events) if stream else answer.json()["choices"][0]["text"]
                whole = token_numbers(said) == list(range(TOKENS))
                self.ends["answered" if whole and answer.status == 200 else f"{answer.status} {answer.ended}"] += 1
            except (OSError, TimeoutError, ValueError, KeyError) as failure:
                self.ends[type(failure).__name__] += 1


@asynccontextmanager
async def serving(stall_s: float) -> AsyncIterator[tuple[int, str]]:
    """The process, and its URL, once both engines are ready."""
    with TemporaryDirectory(prefix="forebay-noticing-") as name:
        env = an_environment(Path(name)) | {"FOREBAY_METRICS_PUBLIC": "true"}
        program = Path(name) / "packages/vllm/entrypoints/openai/api_server.py"
        program.unlink()
        program.write_text(ENGINE)
        root = str(Path(__file__).parent.parent)
        env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], root])
        flags = {"--engine-stall-s": stall_s, "--engine-concurrency": CALLERS // 4, "--engine-stop-timeout-s": 1}
        flags |= {"--engine-crash-limit": 100, "--engine-backoff-max-s": 1}  # it has to be there for the next trial
        with (Path(name) / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(FOREBAY, "serve", "m", "--replicas", "2", "--port", "0"),
                *(str(word) for flag in flags.items() for word in flag),
                env=env,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[-1]
        try:
            async with asyncio.timeout(60):
                await _until(url, 2)
            yield process.pid, url
        finally:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 20)
            await process.stdout.read()  # else its pipe outlives the loop


async def _replicas(url: str) -> list[dict[str, Any]]:
    replicas: list[dict[str, Any]] = json.loads((await fetch(url, "GET", "/health")).body)["replicas"]
    return replicas


async def _until(url: str, ready: int) -> None:
    while sum(replica["ready"] for replica in await _replicas(url)) != ready:
        await asyncio.sleep(0.005)


async def trial(pid: int, url: str, how: signal.Signals, callers: Callers) -> tuple[float, float]:
    """Seconds until its replica is out of rotation, and until all who were under way are answered."""
    await _until(url, 2)
    await asyncio.sleep(2 * ONE_S)  # the load is spread anew
    engine = next(one for one in descendants(pid) if "leash" not in command_of(one) and "--uds" in command_of(one))
    began, struck = dict(callers.under_way), monotonic()
    os.kill(engine, how)
    await _until(url, 1)
    noticed = monotonic() - struck
    await callers.until_answered(began)
    return noticed, monotonic() - struck


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--engine-stall-s", type=float, default=5.0)
    options = parser.parse_args()
    bars = {signal.SIGKILL: 1.0, signal.SIGSTOP: options.engine_stall_s + 1.0}
    good = True
    print("| engine | out of rotation, s | callers answered, s |\n| --- | --- | --- |")
    async with serving(options.engine_stall_s) as (pid, url):
        callers = Callers(url)
        for how, bar in bars.items():
            found = [await trial(pid, url, how, callers) for _ in range(options.times)]
            noticed, answered = zip(*found, strict=True)
            told = [f"{statistics.median(times):.2f}, {max(times):.2f} at most" for times in (noticed, answered)]
            print(f"| {how.name} | {' | '.join(told)} |", flush=True)
            good = good and max(noticed) <= bar and max(answered) <= bar + 2 + ONE_S
        await callers.stop()
    failed = callers.ends.total() - callers.ends["answered"]
    print(f"{failed} of {callers.ends.total()} requests failed: {dict(callers.ends)}")
    return 0 if good and not failed else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
