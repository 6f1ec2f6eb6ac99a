"""Running a benchmark: the server, the prompts, progress on the terminal, Ctrl-C, and where the report goes."""

import asyncio
import contextlib
import json
import math
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from forebay.cli.bench_options import Options, key, objectives
from forebay.cli.bench_print import print_outcome
from forebay.cli.options import EXIT_USAGE, fail
from forebay.loadgen.arrivals import Closed, Load, Process, arrivals
from forebay.loadgen.asking import Asker
from forebay.loadgen.figures import Measured, Sample, Slo, meets, summarise
from forebay.loadgen.outcome import Outcome, as_json
from forebay.loadgen.prompts import Lengths, NotPrompts, Prompt, read_prompts, shuffled, synthetic
from forebay.loadgen.report import as_html
from forebay.loadgen.run import Standing, measure
from forebay.loadgen.sweep import best, judge, next_rate, propose
from forebay.loadgen.target import NoServer, Target, measured_scale, tokens_per_character, with_model
from forebay.upstream.pool import Address, UpstreamPool

EXIT_INTERRUPTED = 130
CONNECT_TIMEOUT_S = 10.0
IDLE_S = 4.0  # vLLM closes a connection that has idled for 5 s
FEWEST_REQUESTS = 10  # a rate is judged by so many at least
_SAMPLE_CHARACTERS = 20_000


@dataclass(frozen=True)
class SweepPlan:
    """How to search."""

    start_rate: float
    max_rate: float
    duration_s: float
    attainment: float
    precision: float
    engines: int
    process: Process


@dataclass
class Bench:
    """A server that answers, prompts for it, and what Ctrl-C stops."""

    target: Target
    asker: Asker
    prompts: Iterator[Prompt]
    draw: Random
    bar: Progress
    stop: asyncio.Event

    async def run(
        self, what: str, load: Load, count: int, each: Callable[[Sample], None] = lambda sample: None
    ) -> Measured:
        requests = [self.target.question(prompt) for prompt in islice(self.prompts, count)]
        task = self.bar.add_task(what, total=count, speed="")

        def watch(standing: Standing) -> None:
            self.bar.update(task, completed=standing.ended, speed=_speed(standing))

        return await measure(self.asker, requests, load, self.stop, watch, each)


def run_once(kind: str, options: Options, load: Callable[[Random], Load], count: int, warmup: int) -> None:
    """One run, and its report."""
    slo = Slo(**found) if (found := objectives(options)) else None

    async def go(bench: Bench, outcome: Outcome) -> None:
        outcome.slo = slo
        made = load(bench.draw)
        await _warm(bench, warmup, warmup if isinstance(made, Closed) else 1)
        outcome.run = await bench.run("measuring", made, count)
        outcome.summary = summarise(outcome.run, slo)

    _report(options, _run(kind, options, go))


def run_sweep(options: Options, plan: SweepPlan, warmup: int) -> None:
    """Runs at one rate after another, and their report."""
    slo = Slo(**objectives(options))

    async def go(bench: Bench, outcome: Outcome) -> None:
        outcome.slo = slo
        outcome.options |= asdict(plan)
        await _warm(bench, warmup, 1)
        while (rate := next_rate(outcome.trials, plan.start_rate, plan.precision, plan.max_rate)) is not None:
            if not await _try(bench, outcome, plan, rate):
                break
        if (found := best(outcome.trials)) is not None:
            outcome.proposal = propose(found, slo, plan.engines)

    _report(options, _run("sweep", options, go))


async def _try(bench: Bench, outcome: Outcome, plan: SweepPlan, rate: float) -> bool:
    """Try one rate, until it is known to be too much; whether it was tried to the end."""
    assert outcome.slo is not None
    slo, missed, asked = outcome.slo, 0, bench.stop
    count = max(math.ceil(rate * plan.duration_s), FEWEST_REQUESTS)
    bench.stop = enough = asyncio.Event()
    following = asyncio.create_task(_follow(asked, enough))

    def each(sample: Sample) -> None:
        nonlocal missed
        missed += not meets(sample, slo)
        if missed > (1 - plan.attainment) * count:
            enough.set()

    try:
        run = await bench.run(f"{rate:.3g} requests/s", arrivals(plan.process, rate, count, bench.draw), count, each)
    finally:
        following.cancel()
        bench.stop = asked
    if asked.is_set():
        return False
    trial = judge(rate, run, summarise(run, slo), plan.attainment)
    outcome.trials.append(trial)
    if best(outcome.trials) is trial:
        outcome.run, outcome.summary = run, trial.summary
    bench.bar.console.print(f"{rate:8.3g} requests/s: {'met' if trial.met else 'not met'} ({trial.verdict})")
    return True


async def _follow(asked: asyncio.Event, enough: asyncio.Event) -> None:
    await asked.wait()
    enough.set()


async def _warm(bench: Bench, count: int, concurrency: int) -> None:
    """Requests that are not measured: connections are made, and the engine has compiled what it will run."""
    if count:
        await bench.run("warming up", Closed(concurrency), count)


def _run(kind: str, options: Options, go: Callable[[Bench, Outcome], Any]) -> Outcome:
    target, chosen = _target(options), asdict(options)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    told = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    outcome = Outcome(kind, str(target.address), "", started_at, told, None)

    async def run() -> None:
        async with _opened(options, target) as bench:
            outcome.model = bench.target.model
            await go(bench, outcome)
            outcome.stopped = bench.stop.is_set()

    try:
        uvloop.run(run())
    except NoServer as wrong:
        fail(str(wrong))
    except NotPrompts as wrong:
        fail(f"prompts: {options.prompts}: {wrong}", EXIT_USAGE)
    return outcome


@contextlib.asynccontextmanager
async def _opened(options: Options, target: Target) -> AsyncIterator[Bench]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pool = UpstreamPool(target.address, connect_timeout_s=CONNECT_TIMEOUT_S, idle_s=IDLE_S, max_connections=hard)
    draw, stop, loop = Random(options.seed), asyncio.Event(), asyncio.get_running_loop()  # noqa: S311 (no secret)
    try:
        target = await with_model(target, pool)
        prompts = await _prompts(options, target, pool, draw)
        loop.add_signal_handler(signal.SIGINT, _interrupt, loop, stop)
        with _bar() as bar:
            yield Bench(target, Asker(pool, options.timeout), prompts, draw, bar, stop)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        pool.close()


def _interrupt(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The first Ctrl-C ends the measurement; a second one the process."""
    stop.set()
    loop.remove_signal_handler(signal.SIGINT)


async def _prompts(options: Options, target: Target, pool: UpstreamPool, draw: Random) -> Iterator[Prompt]:
    if options.prompts is None:
        lengths = Lengths(options.input_tokens, options.output_tokens, options.vary)
        return synthetic(lengths, await measured_scale(target, pool), draw)
    try:
        text = options.prompts.read_text()
    except (OSError, UnicodeDecodeError) as failure:
        raise NotPrompts(f"cannot be read: {getattr(failure, 'strerror', None) or 'no text'}") from None
    read_prompts(text, options.output_tokens)
    per_character = await tokens_per_character(target, pool, text[:_SAMPLE_CHARACTERS])
    return shuffled(read_prompts(text, options.output_tokens, per_character), draw)


def _target(options: Options) -> Target:
    try:
        address = Address.parse(options.url, options.ca_file)
    except (ValueError, OSError) as wrong:
        fail(f"url: {wrong}", EXIT_USAGE)
    extra: dict[str, Any] = {}
    if options.ignore_eos or (options.ignore_eos is None and options.prompts is None):
        extra["ignore_eos"] = True
    try:
        extra |= dict(json.loads(options.extra or "{}"))
    except (ValueError, TypeError):
        fail('extra: not a JSON object, such as {"temperature": 0}', EXIT_USAGE)
    return Target(address, key(options), options.model, options.endpoint == "chat", tuple(extra.items()))


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, TextColumn("{task.fields[speed]}"), console=console, disable=not console.is_terminal)


def _speed(standing: Standing) -> str:
    elapsed = max(standing.elapsed_s, 1e-3)
    failed = f", {standing.failed} failed" if standing.failed else ""
    return f"{standing.ended / elapsed:.1f} requests/s, {standing.tokens / elapsed:.0f} tokens/s{failed}"


def _report(options: Options, outcome: Outcome) -> None:
    """Print, write what is asked for, and end with the status that says how it went."""
    on_stdout = options.json is not None and str(options.json) == "-"
    try:
        if options.html is not None:
            options.html.write_text(as_html(outcome))
        if options.json is not None and not on_stdout:
            options.json.write_bytes(as_json(outcome))
    except OSError as failure:
        fail(f"{failure.filename}: {failure.strerror}")
    if on_stdout:
        sys.stdout.write(as_json(outcome).decode())
    print_outcome(outcome, err=on_stdout)
    if outcome.stopped:
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.kind == "sweep" and outcome.proposal is None:
        fail("no rate meets the objectives; allow more, ask for less, or start lower (--start-rate)")
    if outcome.kind != "sweep" and outcome.summary is not None and not outcome.summary.completed:
        fail(f"no request succeeded: {next(iter(outcome.summary.failures), 'none was sent')}")
