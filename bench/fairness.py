"""What does fair queueing do for a quiet tenant? First come, first served and fair, in front of the same engine.

usage: make bench-fairness, or python -m bench.fairness [--url http://127.0.0.1:8000 --model NAME] [--limit 8]
           [--seconds 24] [--case quiet]

Without --url the engine is the tests' fake one. Two cases, each under both orders at the same concurrency limit:

    quiet   one tenant keeps 32 streams going, another sends one request at a time; the bars: the quiet one's TTFT p95
            is at most a fifth of what it is first come, first served, and total tokens/s stays within 5%
    rivals  one keeps 32 long streams going, another 16 short ones; Jain's index over their weighted tokens (prompt
            once, answer twice) tells how even the shares are: 1 is equal, 0.5 that one has everything
"""

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import uvloop
from bench.in_process import Answer, ask, chat, gateway, percentile
from tests.gateway.fake_engine import FakeEngine

KEYS = ("sk-flood", "sk-other")


@dataclass(frozen=True)
class Tenant:
    """How one behaves: so many streams at a time, each of so many tokens."""

    key: str
    streams: int
    tokens: int


CASES = {
    "quiet": (Tenant(KEYS[0], 32, 48), Tenant(KEYS[1], 1, 48)),
    "rivals": (Tenant(KEYS[0], 32, 48), Tenant(KEYS[1], 16, 12)),
}


async def compete(url: str, model: str, tenants: tuple[Tenant, ...], seconds: float) -> tuple[list[Answer], int]:
    """All answers that came within the time, and how many tokens, those of answers under way at its end included."""
    answers: list[Answer] = []
    tokens: list[int] = []

    async def stream(tenant: Tenant) -> None:
        request = chat(tenant.key, model, tenant.tokens)
        while True:
            answers.append(await ask(url, tenant.key, request, tokens.append))

    running = [asyncio.create_task(stream(tenant)) for tenant in tenants for _ in range(tenant.streams)]
    await asyncio.wait(running, timeout=seconds)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return answers, sum(tokens)


def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def weighted(answers: list[Answer], key: str) -> float:
    """The tokens that one was served: a prompt here is about 37."""
    return sum(37 + 2 * answer.tokens for answer in answers if answer.key == key)


async def measure(engine: str, model: str, case: str, order: str, options: Any) -> tuple[float, float]:
    """One case under one order: the second tenant's TTFT p95, ms, and total tokens/s."""
    flags = {"queue_order": order, "engine_concurrency": options.limit, "queue_timeout_s": 600}
    async with gateway(engine, KEYS, drain_timeout_s=1, **flags) as (url, _):
        began = perf_counter()
        answers, tokens = await compete(url, model, CASES[case], options.seconds)
        took_s = perf_counter() - began
    if failed := [answer for answer in answers if answer.status != 200]:
        raise SystemExit(f"{len(failed)} answers are no 200: {failed[0].body[:300]!r}")
    firsts = [answer.first_s * 1e3 for answer in answers if answer.key == KEYS[1]]
    p95, rate = percentile(firsts, 0.95), tokens / took_s
    even = jain([weighted(answers, key) for key in KEYS])
    print(
        f"{case:7} {order:5} other's TTFT p50 {percentile(firsts, 0.5):7.0f} ms  p95 {p95:7.0f} ms of {len(firsts):4}"
        f"   all {rate:6.0f} tokens/s   Jain {even:.3f}",
        flush=True,
    )
    return p95, rate


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running engine")
    parser.add_argument("--model", default="fake-model")
    parser.add_argument("--limit", type=int, default=8, help="requests that the engine has at once")
    parser.add_argument("--seconds", type=float, default=24.0, help="length of each of the four measurements")
    parser.add_argument("--case", choices=CASES, help="one of the cases alone")
    options = parser.parse_args()
    cases = [options.case] if options.case else list(CASES)
    async with AsyncExitStack() as stack:
        engine = options.url
        if engine is None:
            fake = FakeEngine(slots=options.limit, token_delay_s=0.02, tokens=64)
            engine = (await stack.enter_async_context(fake)).url
        found = {
            (case, order): await measure(engine, options.model, case, order, options)
            for case in cases
            for order in ("fifo", "fair")
        }
    if "quiet" not in cases:
        return 0
    (slow, before), (quick, after) = found["quiet", "fifo"], found["quiet", "fair"]
    print(f"the quiet one's TTFT p95 is {quick / slow:.1%} of first come, first served; tokens/s {after / before:.1%}")
    return 0 if quick <= slow / 5 and abs(after / before - 1) <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
