"""Keeps one engine running: events in, lifecycle, effects out. The only writer of the engine's state.

What watches a state is cancelled on leaving it, and its events carry the state's number; the end of a process carries
the spawn's. So a late answer about a state or a process long gone is dropped before it reaches the table.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from forebay.config.settings import Settings
from forebay.engines.backoff import Backoff
from forebay.engines.cache import CompileCache
from forebay.engines.lifecycle import (
    Announce,
    Deadlines,
    Drained,
    Effect,
    Event,
    GenerationSucceeded,
    HealthPassed,
    Kill,
    Lifecycle,
    Probe,
    ProcessExited,
    SetDeadline,
    Signal,
    Spawn,
    Stalled,
    State,
    Warm,
    Watch,
)
from forebay.engines.process import EngineProcess
from forebay.engines.spec import EngineSpec
from forebay.engines.warmup import warm_up
from forebay.failures import Failure
from forebay.upstream.pool import UpstreamPool
from forebay.upstream.questions import check_health

log = logging.getLogger("forebay.engine")

PROBE_EVERY_S = 0.25
STRIKES = 3

OnChange = Callable[[Announce], None]


class Supervisor:
    """One engine and its life. `on_change` is told of every change of state."""

    def __init__(self, spec: EngineSpec, settings: Settings, upstream: UpstreamPool, on_change: OnChange) -> None:
        self._spec = spec
        self._settings = settings
        self._upstream = upstream
        self._on_change = on_change
        self._lifecycle = Lifecycle(
            Deadlines(
                start_s=settings.engine_start_timeout_s,
                warm_s=settings.engine_warm_timeout_s,
                drain_s=settings.drain_timeout_s,
                stop_s=settings.engine_stop_timeout_s,
            ),
            Backoff(
                max_s=settings.engine_backoff_max_s,
                limit=settings.engine_crash_limit,
                window_s=settings.engine_crash_window_s,
                random=random.random,
            ),
        )
        self._events: asyncio.Queue[tuple[int, Event | bool]] = asyncio.Queue()
        self._epoch = 0  # counts changes of state
        self._process: EngineProcess | None = None
        self._watching: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._earlier_oom_events = 0
        self._since = time.time()
        self._why = ""
        self._cache = CompileCache(Path(spec.cache_dir)) if spec.cache_dir is not None else None
        self.warmup_s: float | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self.name} {self._lifecycle!r} {self._process!r}>"

    # What is shown of it
    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def command(self) -> Sequence[str]:
        return self._spec.argv

    @property
    def state(self) -> State:
        return self._lifecycle.state

    @property
    def restarts(self) -> int:
        """Starts after the first."""
        return max(self._lifecycle.spawns - 1, 0)

    @property
    def oom_events(self) -> int:
        """Times that memory ran out, as far as its lines and its end tell."""
        return self._earlier_oom_events + (self._process.oom_events if self._process else 0)

    def busy_seconds(self) -> float:
        """Time that its threads have computed, or waited for a processor."""
        return self._process.busy_seconds() if self._process else 0.0

    def resident_bytes(self) -> int:
        """Memory that its processes hold."""
        return self._process.resident_bytes() if self._process else 0

    @property
    def warmup_cache_warm(self) -> bool | None:
        """Whether its latest start found compiled code; None where the cache is not ours."""
        return self._cache.warm if self._cache is not None else None

    def states(self) -> dict[str, bool]:
        """Each state's name, and whether it is the present one."""
        return {state.value: state is self.state for state in State}

    def describe(self) -> dict[str, Any]:
        cache = self._cache
        return {
            "name": self.name,
            "model": self._spec.served_model,
            "state": self.state.value,
            "since": self._since,
            "why": self._why,
            "restarts": self.restarts,
            "out_of_memory_events": self.oom_events,
            "warmup_s": self.warmup_s,
            "warmup_cache": cache and {"key": cache.key, "state": cache.state, "bytes": cache.bytes},
            "pid": self._process.pid if self._process else None,
        }

    # Its life
    async def run(self) -> None:
        """Have the engine up until `stop`, then return once it is down."""
        self._perform(self._lifecycle.want(True, time.monotonic()))
        while self._lifecycle.wanted or self.state is not State.STOPPED:
            number, event = await self._events.get()
            now = time.monotonic()
            if isinstance(event, bool):
                self._perform(self._lifecycle.want(event, now))
                if self.state is State.DRAINING:  # the gateway has drained before it stops us
                    self._perform(self._lifecycle.handle(Drained(), now))
            elif number == (self._lifecycle.spawns if isinstance(event, ProcessExited) else self._epoch):
                self._perform(self._lifecycle.handle(event, now))
        self._set_deadline(None)

    def stop(self) -> None:
        """Begin to end the engine; `run` returns when it has ended. Its requests must be over by then."""
        self._events.put_nowait((0, False))

    def stalled(self, why: str) -> None:
        """It has work and makes no progress, as the gateway or the agent sees: end it and start another."""
        if self.state is State.READY:
            self._send(self._epoch, Stalled(why))

    def _send(self, number: int, event: Event) -> None:
        self._events.put_nowait((number, event))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Announce():
                    self._announce(effect)
                case Spawn():
                    self._start(self._spawn(), keep=True)
                case Signal(how=Kill.TERM):
                    if self._process is not None:
                        self._process.terminate()
                case Signal(how=Kill.KILL):
                    if self._process is not None:
                        self._process.kill()
                case SetDeadline():
                    self._set_deadline(effect)
                case Probe():
                    self._start(self._probe())
                case Warm():
                    self._start(self._warm())
                case Watch():
                    self._start(self._watch())
                    self._start(self._keep_cache(), keep=True)

    def _announce(self, change: Announce) -> None:
        """A state was left: what watched it is over."""
        self._epoch += 1
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._set_deadline(None)
        self._since, self._why = time.time(), change.why
        bad = change.new in (State.FAILED, State.STOPPED) and self._lifecycle.wanted
        log.log(
            logging.WARNING if bad else logging.INFO,
            "engine state",
            extra={"engine": self.name, "from": change.old.value, "state": change.new.value, "why": change.why},
        )
        self._on_change(change)

    def _set_deadline(self, deadline: SetDeadline | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(deadline.seconds, self._send, self._epoch, deadline.event)

    def _start(self, coroutine: Coroutine[Any, Any, None], *, keep: bool = False) -> None:
        """Run a coroutine; unless `keep`, only as long as the state lasts."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not keep:
            self._watching = task

    # What runs beside
    async def _spawn(self) -> None:
        """Start the process and tell of its end."""
        spawn = self._lifecycle.spawns
        if self._cache is not None:
            await asyncio.to_thread(self._cache.opened)
        try:
            process = self._process = await EngineProcess.spawn(self._spec)
        except OSError as failure:
            self._send(spawn, ProcessExited(f"could not be started: {failure}"))
            return
        if self.state is State.STOPPING:  # it was unwanted while it was being started
            process.kill()
        status = await process.wait()
        self._earlier_oom_events += process.oom_events
        self._process = None
        why = f"exited with status {status}"
        if process.last_error:
            why += f"; its last error: {process.last_error[:300]}"
        self._send(spawn, ProcessExited(why))

    async def _probe(self) -> None:
        while True:
            try:
                await check_health(self._upstream, self._settings.health_timeout_s, self._spec.api_key)
            except Failure:
                await asyncio.sleep(PROBE_EVERY_S)
            else:
                self._send(self._epoch, HealthPassed())
                return

    async def _warm(self) -> None:
        begun = time.monotonic()
        while True:
            try:
                await warm_up(self._upstream, self._spec, self._settings)
            except Failure as failure:
                log.warning("warm-up failed", extra={"engine": self.name, "why": str(failure)})
                await asyncio.sleep(PROBE_EVERY_S)
            else:
                self.warmup_s = round(time.monotonic() - begun, 3)
                log.info("warmed up", extra={"engine": self.name, "seconds": self.warmup_s})
                self._send(self._epoch, GenerationSucceeded())
                return

    async def _keep_cache(self) -> None:
        if self._cache is not None:
            await asyncio.to_thread(self._cache.completed)

    async def _watch(self) -> None:
        """A refused or failing /health, several times in a row, is a stall; a late one only shows that it is busy."""
        strikes = 0
        while strikes < STRIKES:
            await asyncio.sleep(self._settings.health_interval_s)
            try:
                await check_health(self._upstream, self._settings.health_timeout_s, self._spec.api_key)
                strikes = 0
            except Failure as failure:
                if failure.kind not in ("timeout", "local"):
                    strikes += 1
                    why = str(failure)
        self._send(self._epoch, Stalled(f"health failed {STRIKES} times: {why}"))
