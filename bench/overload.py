"""What happens at three times the capacity? An open loop against the tests' fake engine, whose capacity is known.

usage: make bench-overload, or python -m bench.overload [--seconds 8]

Requests come at random (Poisson) at 1, 2 and 3 times what the engine can do, each ready to wait for 1 s. Goodput is the
answers a second. The bars at three times: goodput at least 95% of its peak, the p99 wait of what is admitted within
the deadline, and the p99 of what is refused at once under 20 ms.
"""

import argparse
import asyncio
import random
import sys
from time import perf_counter

import uvloop
from bench.in_process import Answer, ask, chat, gateway, percentile
from tests.gateway.fake_engine import FakeEngine

KEYS = ("sk-a", "sk-b", "sk-c")
SLOTS, TOKENS, TOKEN_DELAY_S = 16, 10, 0.02
CAPACITY = SLOTS / (TOKENS * TOKEN_DELAY_S)
DEADLINE_S = 1.0


async def load(url: str, rate: float, seconds: float) -> list[Answer]:
    """Requests at a rate, whatever becomes of them."""
    arrivals = random.Random(7)
    requests = {
        key: chat(key, "fake-model", TOKENS, headers=f"x-request-timeout-ms: {DEADLINE_S * 1000:.0f}\r\n")
        for key in KEYS
    }
    asked, due, began = [], 0.0, perf_counter()
    while (due := due + arrivals.expovariate(rate)) < seconds:
        await asyncio.sleep(began + due - perf_counter())
        key = arrivals.choice(KEYS)
        asked.append(asyncio.create_task(ask(url, key, requests[key])))
    return await asyncio.gather(*asked)


async def measure(factor: float, seconds: float) -> tuple[float, float, float]:
    """Goodput, and the two latencies that are bounded, ms."""
    async with (
        FakeEngine(slots=SLOTS, token_delay_s=TOKEN_DELAY_S, tokens=TOKENS) as engine,
        gateway(engine.url, KEYS, engine_concurrency=SLOTS, max_queue_size=256) as (url, running),
    ):
        began = perf_counter()
        answers = await load(url, factor * CAPACITY, seconds)
        took_s = perf_counter() - began
        (line,) = running.pipeline.admission.lines.values()
        refused = {reason: number for reason, number in line.refused.items() if number}
    good = [answer for answer in answers if answer.status == 200]
    at_once = [a.took_s * 1e3 for a in answers if a.status == 503 and b"within the time" not in a.body]
    first = [answer.first_s * 1e3 for answer in good]
    goodput, first_p99, refusal_p99 = len(good) / took_s, percentile(first, 0.99), percentile(at_once, 0.99)
    print(
        f"{factor:g} x capacity ({CAPACITY:.0f}/s): goodput {goodput:5.1f}/s   first token p50 "
        f"{percentile(first, 0.5):5.0f} p99 {first_p99:5.0f} ms   refused at once p50 {percentile(at_once, 0.5):.1f} "
        f"p99 {refusal_p99:.1f} ms of {len(at_once)}   {refused}",
        flush=True,
    )
    return goodput, first_p99, refusal_p99


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each of the three loads")
    seconds = parser.parse_args().seconds
    found = [await measure(factor, seconds) for factor in (1, 2, 3)]
    peak = max(goodput for goodput, _, _ in found)
    goodput, first_p99, refusal_p99 = found[-1]
    print(f"at 3 times the capacity goodput is {goodput / peak:.1%} of its peak")
    in_time = first_p99 <= DEADLINE_S * 1e3 + 100  # the wait, and then the engine's first token
    return 0 if goodput >= 0.95 * peak and in_time and refusal_p99 < 20 else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
