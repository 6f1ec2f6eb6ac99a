"""The engines of `forebay serve`, each with its replica in the gateway's pool: started, joined, drained, ended.

An engine's replica is in the pool from its start; it is ready while the engine is. One that is retired gets no new
request, finishes what it has for up to `drain_timeout_s`, and is then ended; what it still held is taken over.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forebay.config.settings import Settings
from forebay.engines.lifecycle import Announce, State
from forebay.engines.spec import EngineSpec
from forebay.engines.supervisor import Supervisor
from forebay.engines.watch import watch_work
from forebay.failures import Failure
from forebay.gateway.build import Gateway
from forebay.gateway.parts import make_replica
from forebay.replicas.monitor import learn_models
from forebay.replicas.replica import Replica
from forebay.upstream.pool import Address
from forebay.upstream.questions import put_to_sleep, wake_up

log = logging.getLogger("forebay.engine")

LEARN_EVERY_S = 0.25
DRAIN_LOOK_S = 0.05
_DOWN = (State.STOPPED, State.STOPPING, State.FAILED)


class StartFailed(Exception):
    """An engine ended before it was ready; the message says why."""


@dataclass(frozen=True)
class Slot:
    """A place for one engine: the settings it runs with, and how to start it there under a name and at a socket."""

    settings: Settings = field(repr=False)
    make_spec: Callable[[str, str], EngineSpec] = field(repr=False, compare=False)

    @property
    def essence(self) -> object:
        """What two engines have in common that need not be exchanged for each other."""
        return self.settings.model_group, self.make_spec("", "")


class Engine:
    """One engine of the fleet. `joined` is done when it has been ready once, or has failed before that."""

    def __init__(self, slot: Slot, spec: EngineSpec, gateway: Gateway, on_ready: Callable[[], None]) -> None:
        settings = slot.settings
        self.slot = slot
        self.spec = spec
        address = Address("localhost", uds=spec.uds)
        self.replica: Replica = make_replica(settings, spec.name, address, spec.api_key, settings.model_group)
        self.supervisor = Supervisor(spec, settings, self.replica.upstream, self._follow)
        self.replica.busy_seconds = self.supervisor.busy_seconds
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running = asyncio.get_running_loop().create_task(self.supervisor.run())
        self._gateway = gateway
        self._on_ready = on_ready
        self._beside: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Engine {self.spec.name} {self.supervisor.state.value}>"

    def _follow(self, change: Announce) -> None:
        """Keep the replica in step with the engine's state."""
        for task in self._beside:
            task.cancel()
        self._beside = []
        self.replica.ready = False
        self.replica.why = f"{change.new.value}: {change.why}"
        if change.new is State.READY:
            self._take_up()
        elif change.new in _DOWN and change.old is not State.STOPPED and not self.joined.done():
            self.joined.set_exception(StartFailed(change.why))
            self.joined.exception()  # whoever waits is told; nobody has to wait

    def _take_up(self) -> None:
        watching = watch_work(
            self.replica.upstream, self.spec, self.slot.settings, self.supervisor.busy_seconds, self._stalled
        )
        self._beside = [asyncio.get_running_loop().create_task(one) for one in (self._join(), watching)]

    async def sleep(self) -> None:
        """Have the drained engine give its memory back. Raises `Failure`."""
        for task in self._beside:
            task.cancel()  # it would be taken for one that hangs
        await put_to_sleep(self.replica.upstream, self.slot.settings.engine_warm_timeout_s, self.spec.api_key)

    async def wake(self) -> None:
        """Have it serve again. Raises `Failure`."""
        await wake_up(self.replica.upstream, self.slot.settings.engine_warm_timeout_s, self.spec.api_key)
        self.replica.draining = False
        self._take_up()

    async def _join(self) -> None:
        replica = self.replica
        while True:
            try:
                await learn_models(replica, self.slot.settings.health_timeout_s)
                break
            except Failure as failure:
                replica.why = f"its models are not known yet: {failure}"
                await asyncio.sleep(LEARN_EVERY_S)
        self._gateway.replicas.refresh()
        replica.breaker.renew()
        replica.ready, replica.suspect, replica.why = True, False, "generates"
        if not self.joined.done():
            self.joined.set_result(None)
        self._on_ready()

    def _stalled(self, why: str) -> None:
        self.replica.has_stalled(why)
        log.error("engine stalled", extra={"engine": self.spec.name, "why": why})
        self.supervisor.stalled(why)

    async def end(self) -> None:
        """Stop the engine, and wait until it has ended."""
        self.supervisor.stop()
        await self.running
        self.replica.upstream.close()


class Fleet:
    """All engines. `on_ready` is called each time one has joined; `on_end` when one's supervision ends, or fails."""

    def __init__(
        self, gateway: Gateway, directory: Path, on_ready: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self.engines: list[Engine] = []
        self._gateway = gateway
        self._directory = directory
        self._on_ready = on_ready
        self._on_end = on_end
        self._started = 0

    def __repr__(self) -> str:
        return f"<Fleet {self.engines}>"

    def start(self, slot: Slot) -> Engine:
        """Start an engine in a slot."""
        name = f"engine-{self._started}"
        self._started += 1
        engine = Engine(
            slot, slot.make_spec(name, str(self._directory / f"{name}.sock")), self._gateway, self._on_ready
        )
        engine.running.add_done_callback(lambda task: self._ended(engine))
        self.engines.append(engine)
        self._gateway.engines.append(engine.supervisor)
        self._gateway.replicas.add(engine.replica)
        return engine

    async def drain(self, engine: Engine) -> None:
        """Let an engine finish what it has, for as long as it may; it gets no new request."""
        engine.replica.draining = True
        limit_s = engine.slot.settings.drain_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while engine.replica.in_flight:
                    await asyncio.sleep(DRAIN_LOOK_S)
        except TimeoutError:
            left = {"engine": engine.spec.name, "in_flight": engine.replica.in_flight}
            log.warning("drain time is over; others take over what is left", extra=left)

    async def retire(self, engine: Engine) -> None:
        """Let an engine finish what it has, then end it and forget it."""
        await self.drain(engine)
        self.engines.remove(engine)
        await engine.end()
        while engine.replica.in_flight:
            await asyncio.sleep(DRAIN_LOOK_S)
        self._gateway.engines.remove(engine.supervisor)
        self._gateway.replicas.remove(engine.replica)

    def stalled(self, replica: Replica, why: str) -> None:
        """The gateway found that an engine makes no progress on what it was given."""
        for engine in self.engines:
            if engine.replica is replica:
                engine.supervisor.stalled(why)

    async def end(self) -> None:
        """End all engines."""
        ending, self.engines = self.engines, []
        await asyncio.gather(*(engine.end() for engine in ending))

    def _ended(self, engine: Engine) -> None:
        if engine in self.engines:  # nobody asked for it: a bug, which is raised where the engine is ended
            self._on_end()
