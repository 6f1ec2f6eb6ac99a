"""Running a benchmark, once or as a sweep, and where its report goes."""

import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import typer
import uvloop

from forebay.cli.bench_open import Bench, opened_bench, target_of
from forebay.cli.bench_options import Options, objectives
from forebay.cli.bench_print import print_outcome
from forebay.cli.options import EXIT_USAGE, fail
from forebay.loadgen.arrivals import Closed, Load, Process, arrivals
from forebay.loadgen.figures import Sample, Slo, Summary, meets, summarise
from forebay.loadgen.outcome import Outcome, as_json
from forebay.loadgen.prompts import NotPrompts
from forebay.loadgen.report import as_html
from forebay.loadgen.stages import Stage, Threshold, staged
from forebay.loadgen.sweep import best, judge, next_rate, propose
from forebay.loadgen.target import NoServer
from forebay.loadgen.words import rounded

EXIT_INTERRUPTED = 130
FEWEST_REQUESTS = 10  # a rate is judged by so many at least


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


def run_once(
    kind: str, options: Options, load: Callable[[Random], Load], count: int, warmup: int, **told: object
) -> None:
    """One run, and its report; `told` are options that the report names too."""
    slo = Slo(**found) if (found := objectives(options)) else None

    async def go(bench: Bench, outcome: Outcome) -> None:
        outcome.slo = slo
        outcome.options |= told | {"requests": count, "warmup": warmup}
        made = load(bench.draw)
        await _warm(bench, warmup, made.concurrency if isinstance(made, Closed) else 1)
        outcome.run = await bench.run("measuring", made, count)
        outcome.summary = summarise(outcome.run, slo)

    _report(options, _run(kind, options, go))


def run_stages(
    options: Options, stages: Sequence[Stage], thresholds: Sequence[Threshold], process: Process, warmup: int
) -> None:
    """One run whose load changes, its report, and whether it kept within the thresholds."""
    slo = Slo(**found) if (found := objectives(options)) else None

    async def go(bench: Bench, outcome: Outcome) -> None:
        outcome.slo = slo
        outcome.options |= {"stages": [asdict(one) for one in stages], "arrivals": process, "warmup": warmup}
        load = staged(stages, process, bench.draw)
        await _warm(bench, warmup, 1)
        outcome.run = await bench.run("measuring", load, len(load.times))
        outcome.summary = summarise(outcome.run, slo)

    outcome = _run("stages", options, go)
    _report(options, outcome)
    if outcome.summary is not None and thresholds:
        _hold(thresholds, outcome.summary)


def _hold(thresholds: Sequence[Threshold], summary: Summary) -> None:
    """Say of each threshold whether it is met; end with status 1 where one is not."""
    for one in thresholds:
        typer.secho(f"forebay: {one.words(summary)}", fg="green" if one.met(summary) else "red", err=True)
    if not all(one.met(summary) for one in thresholds):
        raise typer.Exit(1)


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
    slo, missed = outcome.slo, 0
    count = max(math.ceil(rate * plan.duration_s), FEWEST_REQUESTS)

    def too_many_missed(sample: Sample) -> bool:
        nonlocal missed
        missed += not meets(sample, slo)
        return missed > (1 - plan.attainment) * count

    load = arrivals(plan.process, rate, count, bench.draw)
    run = await bench.run(f"{rounded(rate)} requests/s", load, count, too_many_missed)
    if run.stopped:
        return False
    trial = judge(rate, run, summarise(run, slo), plan.attainment)
    outcome.trials.append(trial)
    if best(outcome.trials) is trial:
        outcome.run, outcome.summary = run, trial.summary
    met = "met" if trial.met else "not met"
    bench.bar.console.print(f"{rounded(rate):>8} requests/s: {met} ({trial.verdict})", soft_wrap=True)
    return True


async def _warm(bench: Bench, count: int, concurrency: int) -> None:
    """Requests that are not measured: connections are made, and the engine has compiled what it will run."""
    if count:
        await bench.run("warming up", Closed(concurrency), count)


def _run(kind: str, options: Options, go: Callable[[Bench, Outcome], Awaitable[None]]) -> Outcome:
    target, chosen = target_of(options), asdict(options)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    told = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    outcome = Outcome(kind, str(target.address), "", started_at, told, None)

    async def run() -> None:
        async with opened_bench(options, target) as bench:
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
