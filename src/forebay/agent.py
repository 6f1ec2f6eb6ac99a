"""The wiring of `forebay engine`: one supervised engine that listens on TCP by itself, and pages that tell of it.

No request passes through this process, so what it knows of the engine's work is what the engine's /metrics say.

The end: at the first signal readiness says 503; after `drain_delay_s`, in which load balancers notice, it waits until
the engine has no work, at most `drain_timeout_s`; then it ends the engine. A second signal skips the waiting. The pages
are served until the engine has ended.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from forebay import __version__
from forebay.api.agent import make_app
from forebay.config.settings import Settings
from forebay.ending import Ending
from forebay.engines.lifecycle import Announce, State
from forebay.engines.spec import EngineSpec
from forebay.engines.supervisor import Supervisor
from forebay.engines.watch import watch_work
from forebay.failures import Failure
from forebay.telemetry import catalogue as metric
from forebay.telemetry.engines import watch_engines
from forebay.telemetry.gpu import GpuWatch
from forebay.telemetry.lag import watch_lag
from forebay.telemetry.logging import LogWriter
from forebay.telemetry.metrics import Metrics
from forebay.upstream.pool import Address, UpstreamPool
from forebay.upstream.questions import generate_once, read_load

log = logging.getLogger("forebay.agent")

LOOK_EVERY_S = 0.25
MAX_CONNECTIONS = 64
GRACE_S = 1
# Where to ask an engine that listens on every address.
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class Agent:
    """One engine and what is told of it."""

    def __init__(self, settings: Settings, spec: EngineSpec, writer: LogWriter, on_ready: Callable[[], None]) -> None:
        self._settings = settings
        self._spec = spec
        self._on_ready = on_ready
        self._watching: asyncio.Task[None] | None = None
        host = _REACHED_AT.get(settings.engine_host, settings.engine_host)
        self.upstream = UpstreamPool(
            Address(host, settings.engine_port),
            connect_timeout_s=settings.connect_timeout_s,
            idle_s=settings.upstream_idle_s,
            max_connections=MAX_CONNECTIONS,
        )
        self.ending = Ending()
        self.supervisor = Supervisor(spec, settings, self.upstream, self._follow)
        self.metrics = Metrics()
        watch_engines(self.metrics, [self.supervisor])
        self.gpus = GpuWatch(settings.gpu_interval_s)
        self.gpus.show_in(self.metrics)
        self.metrics.watch(metric.BUILD, lambda: [((__version__,), 1)])
        self.metrics.watch(metric.LOG_LINES_DROPPED, lambda: [((), writer.dropped)])

    def __repr__(self) -> str:
        return f"<Agent {self.supervisor!r}>"

    def readiness(self) -> tuple[bool, str]:
        """Whether requests may be sent to the engine, and if not, why."""
        if self.ending.begun.is_set():
            return False, "draining: this engine is about to stop"
        engine = self.supervisor.describe()
        return self.supervisor.state is State.READY, f"{engine['name']}: {engine['state']}: {engine['why']}"

    def status(self) -> dict[str, Any]:
        """What operators want to know at a glance."""
        ready, _ = self.readiness()
        return {
            "status": "draining" if self.ending.begun.is_set() else "ok" if ready else "degraded",
            "version": __version__,
            "ready": ready,
            "engines": [self.supervisor.describe()],
        }

    async def drain(self) -> None:
        """Return when the engine may be ended."""
        if self.supervisor.state is not State.READY:
            return
        log.info("draining")
        await self.ending.unless_hurried(asyncio.sleep(self._settings.drain_delay_s))
        await self.ending.unless_hurried(asyncio.wait_for(self._worked_off(), self._settings.drain_timeout_s))

    async def end(self) -> None:
        """End what goes on beside the engine."""
        self.gpus.stop()
        self._unwatch()
        self.upstream.close()

    async def _worked_off(self) -> None:
        """Return when the engine has no work, or is gone. Its figures are those of its latest step, so that a request
        whose first step still runs is not in them: between two looks it takes a step for us."""
        while self.supervisor.state is State.READY:
            try:
                if await self._requests() == 0:
                    await generate_once(
                        self.upstream, self._spec.served_model, self._settings.drain_timeout_s, self._spec.api_key
                    )
                    if await self._requests() == 0:
                        return
            except Failure as failure:
                log.debug("figures unread", extra={"engine": self._spec.name, "why": str(failure)})
            await asyncio.sleep(LOOK_EVERY_S)

    async def _requests(self) -> float:
        return (await read_load(self.upstream, self._settings.health_timeout_s, self._spec.api_key)).requests

    def _follow(self, change: Announce) -> None:
        self._unwatch()
        if change.new is State.READY:
            busy_seconds = self.supervisor.busy_seconds
            watching = watch_work(self.upstream, self._spec, self._settings, busy_seconds, self._stalled)
            self._watching = asyncio.get_running_loop().create_task(watching)
            self._on_ready()

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _stalled(self, why: str) -> None:
        self.metrics.counter(metric.STALLS, (self._spec.name,)).value += 1
        log.error("engine stalled", extra={"engine": self._spec.name, "why": why})
        self.supervisor.stalled(why)


class AgentServer(uvicorn.Server):
    """uvicorn's server of the agent's pages; it ends once the engine has."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(
            uvicorn.Config(
                make_app(agent),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._agent = agent

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._agent.ending.on_signal(sig, frame)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._agent.ending.enter()
        await super().serve(sockets)

    async def main_loop(self) -> None:
        agent = self._agent
        lag = asyncio.create_task(watch_lag(agent.metrics))
        agent.gpus.start()
        running = asyncio.create_task(agent.supervisor.run())
        running.add_done_callback(lambda _: agent.ending.begun.set())  # by itself only by a bug, raised below
        await agent.ending.begun.wait()
        await agent.drain()
        agent.supervisor.stop()
        await running
        lag.cancel()
        await agent.end()


async def run_agent(
    settings: Settings, spec: EngineSpec, writer: LogWriter, sock: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Start the engine and tell of it until a signal; then drain it and end it. SIGHUP has a log file opened again."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, writer.reopen)
    await AgentServer(Agent(settings, spec, writer, on_ready)).serve([sock])
