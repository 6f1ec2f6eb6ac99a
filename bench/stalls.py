"""How soon is a stalled engine found, and how often is a busy one taken for stalled? With two real engines.

usage: bench/stalls.py [--stall-s 5] [--trials 5] [--saturate-s 120]

First the engine's core is stopped (SIGSTOP) under four streams, `--trials` times, and the time is taken until its
replica is out of rotation; no stream may fail. Then both engines are saturated with 48 prompts of about 700 tokens at a
time, far beyond what two CPUs can do in time, and every stall that is reported is a false one.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.e2e.conftest import KEY, MODEL, Service, command_of, descendants, serve

STREAMS = 4
CROWD = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stall-s", type=float, default=5.0)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--saturate-s", type=float, default=120.0)
    options = parser.parse_args()
    with two_engines(options.stall_s) as service:
        found = [asyncio.run(freeze_one(service)) for _ in range(options.trials)]
        print(f"found after {statistics.median(found):.1f} s (median), {max(found):.1f} s at most, of {len(found)}")
        stalls = service.figure("forebay_replica_stalls_total")
        answered = asyncio.run(saturate(service, options.saturate_s))
        false = service.figure("forebay_replica_stalls_total") - stalls
        print(f"false ones while saturated: {false:g} in {options.saturate_s:g} s, {answered} prompts answered")


@contextlib.contextmanager
def two_engines(stall_s: float) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as directory:
        flags = ["--replicas", "2", "--engine-stall-s", str(stall_s), "--max-model-len", "1024"]
        with serve(Path(directory) / "log", *flags, "--engine-backoff-max-s", "1") as service:
            until_both(service)
            yield service


def until_both(service: Service) -> list[dict[str, Any]]:
    while True:
        status = service.get("/healthz")[1]
        if all(replica["ready"] for replica in status["replicas"]):
            engines: list[dict[str, Any]] = status["engines"]
            return engines
        time.sleep(0.2)


async def freeze_one(service: Service) -> float:
    """Seconds until the replica of a core that was stopped, the busier one, is out of rotation."""
    engines = {engine["name"]: engine for engine in until_both(service)}
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=600) as client:
        begun = asyncio.Event()
        streams = [asyncio.create_task(tell(client, number, begun)) for number in range(STREAMS)]
        await begun.wait()
        name = max(replicas_of(service).values(), key=lambda replica: replica["in_flight"])["name"]
        core = next(pid for pid in descendants(engines[name]["pid"]) if "EngineCore" in command_of(pid))
        os.kill(core, signal.SIGSTOP)
        stopped = time.monotonic()
        while replicas_of(service)[name]["ready"]:
            await asyncio.sleep(0.05)
        found = time.monotonic() - stopped
        await asyncio.gather(*streams)
    return found


def replicas_of(service: Service) -> dict[str, dict[str, Any]]:
    return {replica["name"]: replica for replica in service.get("/healthz")[1]["replicas"]}


async def tell(client: openai.AsyncOpenAI, number: int, begun: asyncio.Event) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Story {number}-{time.monotonic()}"}],
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            begun.set()


async def saturate(service: Service, seconds: float) -> int:
    """Prompts answered."""
    until, answered = time.monotonic() + seconds, 0
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=600) as client:

        async def ask(number: int) -> None:
            nonlocal answered
            while time.monotonic() < until:
                words = f"{number} {time.monotonic()} " + "word " * 690
                await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": words}], max_tokens=16
                )
                answered += 1

        await asyncio.gather(*(ask(number) for number in range(CROWD)))
    return answered


if __name__ == "__main__":
    main()
