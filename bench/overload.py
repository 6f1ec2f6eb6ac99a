"""What does the gateway do with more than its engine can? An engine of known capacity C, and 0.7 to 5 times as much.

usage: make bench-overload, or python -m bench.overload [--seconds 60] [--only A1]

The engine is the tests' fake one, which sleeps, in a process of its own; the gateway is `forebay gateway`, in another.
Requests come at random (Poisson) whatever becomes of those before them, and are timed from when they were due.

    A1   0.7 C: nobody is refused, and the time to the first token is hardly longer than at the engine itself
    A2   3 C for 2 s, every 20 s, into a queue that holds it: nobody is refused
    A3   2 C: goodput as at C; who is refused is told at once when to come back, not all the same
    A4   5 C by OpenAI's client with its retries, then 0.8 C: goodput, engine starts an answer, time to recover

Goodput is the answers a second. A queue that stands is kept to `queue_target_s`, once it has stood for
`queue_timeout_s` and is worked off: the p99 at 2 C and C is of what was asked after that, where the run is long enough
to have such a part. Exits with 1 where a bar is missed.
"""

import argparse
import asyncio
import random
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter

import httpx2
import openai
import uvloop
from bench.in_process import Answer, ask, chat, percentile
from bench.processes import Running, fake_engine, forebay_gateway

from forebay.loadgen.arrivals import poisson

KEY = "sk-a"
MODEL = "fake-model"


@dataclass(frozen=True)
class Size:
    """An engine of known capacity and the queue before it."""

    slots: int = 12
    tokens: int = 10
    token_delay_s: float = 0.1
    queue_timeout_s: float = 5.0
    queue_target_s: float = 0.5

    @property
    def service_s(self) -> float:
        return self.tokens * self.token_delay_s

    @property
    def capacity(self) -> float:
        return self.slots / self.service_s

    @property
    def settled_s(self) -> float:
        """How long a queue takes that grows at 2 C until it stands, and is worked off."""
        return 2 * self.queue_timeout_s


@dataclass
class Asked:
    """The requests of one load: when each was due, seconds from its start, how late it went out, what came of it."""

    seconds: float
    answers: list[tuple[float, float, Answer]] = field(default_factory=list)

    def goodput(self, after_s: float) -> float:
        """Answers a second that came within the load, without its first seconds."""
        ends = [due + late + answer.took_s for due, late, answer in self.answers if answer.status == 200]
        return sum(after_s <= end < self.seconds for end in ends) / (self.seconds - after_s)

    def first_ms(self, after_s: float = 0.0) -> list[float]:
        return [(late + one.first_s) * 1e3 for due, late, one in self.answers if one.status == 200 and due >= after_s]

    def refused(self) -> list[Answer]:
        return [answer for _, _, answer in self.answers if answer.status != 200]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    measured: str
    bar: str
    met: bool


@asynccontextmanager
async def both(size: Size) -> AsyncIterator[tuple[Running, Running]]:
    """The engine, and a gateway that has just started."""
    queue = {"queue_timeout_s": size.queue_timeout_s, "queue_target_s": size.queue_target_s}
    async with (
        fake_engine(slots=size.slots, token_delay_s=size.token_delay_s, tokens=size.tokens) as engine,
        forebay_gateway(engine.url, (KEY,), engine_concurrency=size.slots, **queue) as gateway,
    ):
        yield engine, gateway


async def load(url: str, size: Size, factor: float, seconds: float, seed: int = 7) -> Asked:
    """Requests at so many times the capacity; returns when the last is answered."""
    rate = factor * size.capacity
    request, asked, began = chat(KEY, MODEL, size.tokens), Asked(seconds), perf_counter()

    async def one(due: float) -> None:
        late = perf_counter() - began - due
        asked.answers.append((due, late, await ask(url, KEY, request)))

    tasks = []
    for due in poisson(rate, round(rate * seconds), random.Random(seed)):
        await asyncio.sleep(began + due - perf_counter())
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return asked


async def steady(size: Size, seconds: float) -> list[Row]:
    """A1."""
    async with both(size) as (engine, gateway):
        direct = await load(engine.url, size, 0.7, seconds)
        warm = await load(gateway.url, size, 0.7, seconds / 2)
        before = gateway.resident_bytes()
        through = await load(gateway.url, size, 0.7, seconds)
        grown = (gateway.resident_bytes() - before) / 2**20
    added = [percentile(through.first_ms(), share) - percentile(direct.first_ms(), share) for share in (0.5, 0.99)]
    refused = len(warm.refused()) + len(through.refused())
    asked = len(warm.answers) + len(through.answers)
    return [
        Row("A1 refused at 0.7 C", f"{refused} of {asked}", "0", refused == 0),
        Row("A1 added to the first token, p50, p99", f"{added[0]:.1f}, {added[1]:.1f} ms", "p99 20 ms", added[1] <= 20),
        Row("A1 memory grown", f"{grown:.1f} MiB in {seconds:.0f} s", "1 MiB a minute", grown <= max(1, seconds / 60)),
    ]


async def bursts(size: Size, seconds: float, burst_s: float = 2.0) -> list[Row]:
    """A2."""
    refused, firsts = 0, []
    async with both(size) as (_, gateway):
        for number in range(max(1, round(seconds / 20))):
            burst = await load(gateway.url, size, 3, burst_s, seed=number)
            refused += len(burst.refused())
            firsts += burst.first_ms()
            if number + 1 < round(seconds / 20):
                await asyncio.sleep(20 - 3 * burst_s)
    wait_s = max(firsts) / 1e3 - size.token_delay_s
    return [
        Row("A2 refused in bursts of 3 C", f"{refused} of {refused + len(firsts)}", "0", refused == 0),
        Row(
            "A2 longest wait",
            f"{wait_s:.2f} s",
            f"{size.queue_timeout_s:g} s",
            wait_s <= size.queue_timeout_s + size.token_delay_s,
        ),
    ]


async def at_capacity(size: Size, seconds: float) -> tuple[Asked, list[Row]]:
    """What the others are compared with."""
    async with both(size) as (_, gateway):
        asked = await load(gateway.url, size, 1, seconds)
    firsts, told = asked.first_ms(_settled(size, seconds)), asked.goodput(2 * size.service_s)
    figures = f"{told:.1f}/s; {percentile(firsts, 0.5):.0f}, {percentile(firsts, 0.99):.0f} ms"
    return asked, [Row(f"C = {size.capacity:g}/s: goodput; first token p50, p99", figures, "", met=True)]


async def twice(size: Size, seconds: float, reference: Asked) -> list[Row]:
    """A3."""
    async with both(size) as (_, gateway):
        asked = await load(gateway.url, size, 2, seconds)
    after, warm = _settled(size, seconds), 2 * size.service_s
    goodput = asked.goodput(warm) / reference.goodput(warm)
    first, of_reference = percentile(asked.first_ms(after), 0.99), percentile(reference.first_ms(after), 0.99)
    refused = asked.refused()
    refusal = percentile([answer.took_s * 1e3 for answer in refused if b"within the time" not in answer.body], 0.99)
    waits = [int(found[1]) for one in refused if (found := re.search(rb"\nretry-after: (\d+)\r", one.body.lower()))]
    told = len(waits) == len(refused) and len(set(waits)) > 1 and 1 <= min(waits) <= max(waits) <= 30
    return [
        Row("A3 goodput at 2 C against C", f"{goodput:.1%}", "95%", goodput >= 0.95),
        Row(
            "A3 first token p50, p99",
            f"{percentile(asked.first_ms(after), 0.5):.0f}, {first:.0f} ms, {first / of_reference:.2f} times C's",
            "p99 1.5 times",
            first <= 1.5 * of_reference,
        ),
        Row("A3 the same with the first seconds", f"{percentile(asked.first_ms(), 0.99):.0f} ms", "", met=True),
        Row("A3 refusals p99", f"{refusal:.1f} ms of {len(refused)}", "50 ms", refusal <= 50),
        Row("A3 Retry-After", f"{sorted(set(waits))}", "1 to 30, not all the same", told),
    ]


async def crowd(url: str, size: Size, factor: float, seconds: float) -> tuple[list[float], list[int], list[str]]:
    """OpenAI's own client: when each answer came, the status of each attempt, and what each Retry-After said."""
    ends: list[float] = []
    statuses: list[int] = []
    waits: list[str] = []

    async def seen(response: httpx2.Response) -> None:
        statuses.append(response.status_code)
        if response.status_code != 200:
            waits.append(response.headers.get("retry-after", ""))

    pool = openai.DefaultAsyncHttpx2Client(
        limits=httpx2.Limits(max_connections=4000, max_keepalive_connections=4000), event_hooks={"response": [seen]}
    )
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, http_client=pool) as client:

        async def one() -> None:
            said: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story."}]
            with suppress(openai.APIStatusError):
                await client.chat.completions.create(model=MODEL, messages=said, max_tokens=size.tokens)
                ends.append(perf_counter() - began)

        rate = factor * size.capacity
        began, tasks = perf_counter(), []
        for due in poisson(rate, round(rate * seconds), random.Random(11)):
            await asyncio.sleep(began + due - perf_counter())
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
    return ends, statuses, waits


async def retried(size: Size, seconds: float, reference: Asked, recovery_s: float = 40.0) -> list[Row]:
    """A4: the load falls to 0.8 C while those who were refused still come back."""
    warm, over = 2 * size.service_s, list[float]()
    async with both(size) as (engine, gateway):
        storm = asyncio.create_task(crowd(gateway.url, size, 5, seconds))
        await asyncio.sleep(seconds)
        fell = perf_counter()
        storm.add_done_callback(lambda _: over.append(perf_counter() - fell))
        after = await load(gateway.url, size, 0.8, recovery_s)
        ends, statuses, waits = await storm
        starts = await engine.starts()
    goodput = sum(warm <= end < seconds for end in ends) / (seconds - warm) / reference.goodput(warm)
    accepted = len(ends) + len(after.answers) - len(after.refused())
    usual = percentile(reference.first_ms(), 0.99)
    bad = [due for due, late, one in after.answers if one.status != 200 or (late + one.first_s) * 1e3 > usual]
    recovered = max(bad, default=0.0)
    told = all(wait.isdigit() and 1 <= int(wait) <= 30 for wait in waits) and len(set(waits)) > 1
    attempts = f"{len(statuses)} attempts of {round(5 * size.capacity * seconds)} requests"
    return [
        Row("A4 goodput at 5 C, retried, against C", f"{goodput:.1%}, {attempts}", "90%", goodput >= 0.9),
        Row("A4 engine starts an answer", f"{starts / accepted:.3f}", "1.05", starts <= 1.05 * accepted),
        Row("A4 Retry-After", f"{sorted(set(waits))}", "1 to 30, not all the same", told),
        Row(
            "A4 recovered at 0.8 C after",
            f"{recovered:.1f} s; the last retry was over after {over[0]:.1f} s",
            "30 s",
            recovered < min(30.0, 0.9 * recovery_s),
        ),
    ]


def _settled(size: Size, seconds: float) -> float:
    """After when the queue of a load of so many seconds is what it stays; a short one's never is."""
    return size.settled_s if seconds >= 2 * size.settled_s else seconds / 2


def table(rows: list[Row]) -> str:
    lines = [f"| {row.name} | {row.measured} | {row.bar} | {'yes' if row.met else 'NO'} |" for row in rows]
    return "\n".join(["| | measured | bar | met |", "| --- | --- | --- | --- |", *lines])


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load")
    parser.add_argument("--only", choices=("A1", "A2", "A3", "A4"), help="one of them alone")
    options = parser.parse_args()
    size, rows = Size(), list[Row]()

    def wanted(*names: str) -> bool:
        return options.only is None or options.only in names

    if wanted("A1"):
        rows += await steady(size, options.seconds)
    if wanted("A2"):
        rows += await bursts(size, options.seconds)
    if wanted("A3", "A4"):
        reference, told = await at_capacity(size, options.seconds)
        rows += told
        rows += await twice(size, options.seconds, reference) if wanted("A3") else []
        rows += await retried(size, options.seconds, reference) if wanted("A4") else []
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
