"""Sees whether an engine that answers /health makes progress, where no traffic passes through this process.

The decisions are `work.py`'s; here its facts are gathered, every `health_interval_s`.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from forebay.absence import absent_during
from forebay.config.settings import Settings
from forebay.engines.spec import EngineSpec
from forebay.engines.work import Work
from forebay.failures import Failure
from forebay.upstream.pool import UpstreamPool
from forebay.upstream.questions import generate_once, read_load

log = logging.getLogger("forebay.engine")

OnStall = Callable[[str], None]


async def watch_work(
    pool: UpstreamPool, spec: EngineSpec, settings: Settings, busy_seconds: Callable[[], float], on_stall: OnStall
) -> None:
    """Watch an engine from when it is ready; tell `on_stall` why once it has stalled, and end.

    `busy_seconds` tells how long its threads have computed, or waited for a processor.
    """
    work = Work(settings.engine_stall_s, settings.idle_probe_s, monotonic())
    probing: asyncio.Task[None] | None = None
    try:
        while (stalled_s := work.stalled_for(monotonic())) is None:
            if (probing is None or probing.done()) and work.probe_due(monotonic()):
                probing = asyncio.create_task(_probe(pool, spec, settings, work))
            if await absent_during(settings.health_interval_s):
                work.excuse(monotonic())
            busy_s = await asyncio.to_thread(busy_seconds)  # it reads a file for each of its threads
            work.computed(busy_s, monotonic())
            await _read(pool, spec, settings, work)
    finally:
        if probing is not None:
            probing.cancel()
    on_stall(f"stalled: work has waited {stalled_s:.1f} s and nothing moves")


async def _read(pool: UpstreamPool, spec: EngineSpec, settings: Settings, work: Work) -> None:
    try:
        load = await read_load(pool, settings.health_timeout_s, spec.api_key)
    except Failure as failure:
        log.debug("figures unread", extra={"engine": spec.name, "why": str(failure)})
        if failure.kind == "connect":
            work.refused(monotonic())
    else:
        work.read(load.requests, load.steps, monotonic())


async def _probe(pool: UpstreamPool, spec: EngineSpec, settings: Settings, work: Work) -> None:
    """Ask for one token until it comes; a failure is no answer."""
    work.asked(monotonic())
    while True:
        try:
            await generate_once(pool, spec.served_model, 3 * settings.engine_stall_s, spec.api_key)
        except Failure as failure:
            log.warning("probe failed", extra={"engine": spec.name, "why": str(failure)})
            if failure.kind == "connect":
                work.refused(monotonic())
                return
            await asyncio.sleep(settings.health_interval_s)
        else:
            work.answered(monotonic())
            return
