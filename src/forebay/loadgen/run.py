"""A whole measurement: requests go out as the load says, and what became of each is kept.

No request has a task of its own: what ends one sends the next (a closed load), or a timer does (an open one), so that
one process can keep tens of thousands of tokens a second apart.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forebay.loadgen.arrivals import Closed, Load, Open
from forebay.loadgen.asking import Asker
from forebay.loadgen.figures import Measured, Sample

TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is."""

    planned: int
    ended: int
    failed: int
    under_way: int
    tokens: int
    elapsed_s: float


async def measure(
    asker: Asker,
    requests: Sequence[bytes],
    load: Load,
    stop: asyncio.Event,
    watch: Callable[[Standing], None] = lambda standing: None,
    enough: Callable[[Sample], bool] = lambda sample: False,
) -> Measured:
    """Send the requests; return when all have ended, or at once when `stop` is set, with those that had.

    `watch` is told now and then how far it is, `enough` of every request that has ended; it may end the run.
    """
    return await _Run(asker, requests, load, stop, watch, enough).go()


class _Run:
    def __init__(
        self,
        asker: Asker,
        requests: Sequence[bytes],
        load: Load,
        stop: asyncio.Event,
        watch: Callable[[Standing], None],
        enough: Callable[[Sample], bool],
    ) -> None:
        self._asker = asker
        self._requests = requests
        self._load = load
        self._stop = stop
        self._watch = watch
        self._enough = enough
        self._samples: list[Sample] = []
        self._sent = self._failed = self._tokens = 0
        self._late_s: list[float] = []
        self._over = asyncio.Event()
        self._started = 0.0

    async def go(self) -> Measured:
        cpu = time.process_time()
        self._started = time.monotonic()
        sending = asyncio.create_task(self._send_on_time(self._load)) if isinstance(self._load, Open) else None
        if isinstance(self._load, Closed):
            for _ in range(min(self._load.concurrency, len(self._requests))):
                self._send()
        try:
            await self._until_over()
        finally:
            if sending is not None:
                sending.cancel()
            cut = self._asker.cut()
        ended = time.monotonic() if self._stop.is_set() or not self._samples else max(s.ended for s in self._samples)
        used = time.process_time() - cpu
        stopped = self._stop.is_set()
        planned = len(self._requests)
        return Measured(self._samples, self._started, ended, planned, cut, self._late_s, used, stopped)

    async def _until_over(self) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        over = asyncio.create_task(self._over.wait())
        try:
            while self._requests and not (stopped.done() or over.done()):
                await asyncio.wait((stopped, over), timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
                self._asker.expire(time.monotonic())
                self._watch(self._standing())
        finally:
            stopped.cancel()
            over.cancel()

    async def _send_on_time(self, load: Open) -> None:
        for due in load.times[: len(self._requests)]:
            if (wait := self._started + due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            sample = self._send()
            self._late_s.append(sample.sent - self._started - due)

    def _send(self) -> Sample:
        request = self._requests[self._sent]
        self._sent += 1
        return self._asker.ask(request, self._take)

    def _take(self, sample: Sample) -> None:
        self._samples.append(sample)
        self._failed += sample.failure is not None
        self._tokens += sample.output_tokens
        if self._enough(sample) or len(self._samples) == len(self._requests):
            self._over.set()
        elif isinstance(self._load, Closed) and self._sent < len(self._requests):
            self._send()

    def _standing(self) -> Standing:
        elapsed = time.monotonic() - self._started
        planned, under_way = len(self._requests), len(self._asker.under_way)
        return Standing(planned, len(self._samples), self._failed, under_way, self._tokens, elapsed)
