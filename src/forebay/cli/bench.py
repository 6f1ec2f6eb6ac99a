"""`forebay bench`: how fast a server is (throughput, latency), how much it takes (sweep), whether it holds (stages)."""

from typing import TYPE_CHECKING, Annotated

import typer

from forebay.cli.bench_options import Options, with_load_options
from forebay.cli.options import EXIT_USAGE, fail
from forebay.loadgen.arrivals import Process

if TYPE_CHECKING:
    from random import Random

    from forebay.loadgen.arrivals import Load

app = typer.Typer(
    help="Measure a server as its callers see it: throughput, latency, and the highest rate that it can take.",
    no_args_is_help=True,
)
_Requests = Annotated[int, typer.Option(help="Requests to measure.", min=1, max=10_000_000)]
_Warmup = Annotated[int | None, typer.Option(help="Requests before these that are not measured.", min=0)]
_Arrivals = Annotated[Process, typer.Option(help="Gaps between requests: poisson, as of many users, or fixed.")]


@app.command()
@with_load_options
def throughput(
    options: Options,
    concurrency: Annotated[int, typer.Option(help="Requests under way at all times.", min=1, max=20_000)] = 64,
    requests: _Requests = 512,
    warmup: _Warmup = None,
) -> None:
    """Measure how much a server does when there is always more to do:

    forebay bench throughput http://127.0.0.1:8000 --concurrency 64 --input-tokens 512 --output-tokens 128

    The key is taken from FOREBAY_API_KEY. Ctrl-C ends the measurement and reports what was done (status 130). Status 1:
    no request succeeded; 2: wrong options.
    """
    from forebay.cli.bench_run import run_once
    from forebay.loadgen.arrivals import Closed

    warm = concurrency if warmup is None else warmup
    run_once("throughput", options, lambda draw: Closed(concurrency), requests, warm, concurrency=concurrency)


@app.command()
@with_load_options
def latency(
    options: Options,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests/s, whatever becomes of those before; one at a time without.", min=0.01),
    ] = None,
    arrivals: _Arrivals = "poisson",
    requests: _Requests = 100,
    warmup: _Warmup = None,
) -> None:
    """Measure how long answers take at a given rate, or one after the other:

    forebay bench latency http://127.0.0.1:8000 --rate 4 --slo ttft:500 --slo tpot:50 --html latency.html

    Objectives (`--slo`) are in milliseconds. The key is taken from FOREBAY_API_KEY. Ctrl-C ends the measurement and
    reports what was done (status 130). Status 1: no request succeeded; 2: wrong options.
    """
    from forebay.cli.bench_run import run_once
    from forebay.loadgen.arrivals import Closed
    from forebay.loadgen.arrivals import arrivals as arriving

    def load(draw: "Random") -> "Load":
        return Closed(1) if rate is None else arriving(arrivals, rate, requests, draw)

    run_once("latency", options, load, requests, 3 if warmup is None else warmup, rate=rate, arrivals=arrivals)


@app.command()
@with_load_options
def sweep(
    options: Options,
    start_rate: Annotated[float, typer.Option(help="Requests/s to begin with.", min=0.01)] = 1.0,
    max_rate: Annotated[float, typer.Option(help="Requests/s to stop at.", min=0.01)] = 10_000.0,
    duration: Annotated[float, typer.Option(help="Seconds that requests arrive at each rate.", min=1.0)] = 30.0,
    attainment: Annotated[
        float, typer.Option(help="Share of requests that must keep within every objective.", min=0.01, max=1.0)
    ] = 0.95,
    precision: Annotated[float, typer.Option(help="How close the answer is: 0.1 is 10%.", min=0.01, max=1.0)] = 0.1,
    engines: Annotated[int, typer.Option(help="Engines behind the URL, which share the load.", min=1)] = 1,
    arrivals: _Arrivals = "poisson",
    warmup: _Warmup = None,
) -> None:
    """Find the highest rate at which a server keeps within objectives, and what to set because of it:

    forebay bench sweep http://127.0.0.1:8000 --slo ttft:1000 --slo tpot:100 --duration 30 --html sweep.html

    Objectives (`--slo`) are in milliseconds. The key is taken from FOREBAY_API_KEY. Ctrl-C reports the rates that were
    tried (status 130). Status 1: no rate meets the objectives; 2: wrong options.
    """
    from forebay.cli.bench_run import SweepPlan, run_sweep

    if not options.slo:
        fail("slo: say what to keep within, as --slo ttft:1000 --slo tpot:100 (milliseconds)", EXIT_USAGE)
    plan = SweepPlan(start_rate, max_rate, duration, attainment, precision, engines, arrivals)
    run_sweep(options, plan, 3 if warmup is None else warmup)


@app.command()
@with_load_options
def stages(
    options: Options,
    stage: Annotated[
        list[str], typer.Option(help="Within so long to so many requests/s; repeat.", metavar="TIME:RATE")
    ],
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="What must hold: failed:1%, ttft_p95:500 (milliseconds); repeat.", metavar="NAME:LIMIT"),
    ] = None,
    arrivals: _Arrivals = "poisson",
    warmup: _Warmup = None,
) -> None:
    """Have the load rise, stay and fall, and say whether the server held:

    forebay bench stages http://127.0.0.1:8000 --stage 30s:10 --stage 2m:10 --stage 30s:0 --threshold ttft_p95:500

    Thresholds: failed, and ttft, itl, tpot or e2e with _mean, _median, _p90, _p95, _p99 or _max. The key is taken from
    FOREBAY_API_KEY. Status 1: one is not met, or no request succeeded; 2: wrong options.
    """
    from forebay.cli.bench_run import run_stages
    from forebay.loadgen import stages as told

    try:
        wanted, held = [told.stage(text) for text in stage], [told.threshold(text) for text in threshold or ()]
    except ValueError as wrong:
        fail(str(wrong), EXIT_USAGE)
    run_stages(options, wanted, held, arrivals, 3 if warmup is None else warmup)
