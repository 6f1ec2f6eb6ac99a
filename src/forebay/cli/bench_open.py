"""What a benchmark runs on: the server, the prompts, progress on the terminal, and Ctrl-C."""

import asyncio
import contextlib
import json
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from forebay.cli.bench_options import Options
from forebay.cli.calling import key_for
from forebay.cli.options import EXIT_USAGE, fail
from forebay.loadgen.arrivals import Load
from forebay.loadgen.asking import Asker
from forebay.loadgen.figures import Measured, Sample
from forebay.loadgen.prompts import Lengths, NotPrompts, Prompt, read_prompts, shuffled, synthetic
from forebay.loadgen.run import Standing, measure
from forebay.loadgen.target import Target, measured_scale, tokens_per_character, with_model
from forebay.upstream.pool import Address, UpstreamPool

CONNECT_TIMEOUT_S = 10.0
IDLE_S = 4.0  # vLLM closes a connection that has idled for 5 s
_SAMPLE_CHARACTERS = 20_000


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
        self, what: str, load: Load, count: int, enough: Callable[[Sample], bool] = lambda sample: False
    ) -> Measured:
        requests = [self.target.question(prompt) for prompt in islice(self.prompts, count)]
        task = self.bar.add_task(what, total=count, speed="")

        def watch(standing: Standing) -> None:
            self.bar.update(task, completed=standing.ended, speed=_speed(standing))

        return await measure(self.asker, requests, load, self.stop, watch, enough)


@contextlib.asynccontextmanager
async def opened_bench(options: Options, target: Target) -> AsyncIterator[Bench]:
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


def target_of(options: Options) -> Target:
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
    return Target(
        address, key_for(options.url, options.key_file), options.model, options.endpoint == "chat", tuple(extra.items())
    )


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, TextColumn("{task.fields[speed]}"), console=console, disable=not console.is_terminal)


def _speed(standing: Standing) -> str:
    elapsed = max(standing.elapsed_s, 1e-3)
    failed = f", {standing.failed} failed" if standing.failed else ""
    return f"{standing.ended / elapsed:.1f} requests/s, {standing.tokens / elapsed:.0f} tokens/s{failed}"
