"""The wiring of `forebay serve`: a gateway over engines that this process supervises. The one place that knows both."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from forebay.config.settings import Settings
from forebay.engines.lifecycle import Announce, State
from forebay.engines.spec import EngineSpec
from forebay.engines.supervisor import Supervisor
from forebay.failures import Failure
from forebay.gateway.build import Gateway, GatewayServer, make_replica
from forebay.replicas.monitor import learn_models
from forebay.replicas.replica import Replica
from forebay.telemetry.logging import LogWriter
from forebay.upstream.pool import Address

LEARN_EVERY_S = 0.25


async def serve_engines(
    settings: Settings,
    specs: Sequence[EngineSpec],
    writer: LogWriter,
    sock: socket.socket,
    on_ready: Callable[[], None],
) -> None:
    """Start the engines and serve over them until a signal; then drain, and end them.

    `on_ready` is called each time an engine has joined.
    """
    replicas = [make_replica(settings, spec.name, Address("localhost", uds=spec.uds), spec.api_key) for spec in specs]
    gateway = Gateway(settings, writer, replicas)
    server = GatewayServer(gateway)
    supervisors = []
    for spec, replica in zip(specs, replicas, strict=True):
        follow = _Follow(gateway, replica, settings, on_ready)
        supervisor = Supervisor(spec, settings, replica.upstream, follow)
        replica.cpu_seconds = supervisor.cpu_seconds
        supervisors.append(supervisor)
    gateway.engines.extend(supervisors)
    owners = dict(zip(replicas, supervisors, strict=True))
    gateway.on_stall = lambda replica, why: owners[replica].stalled(why)
    running = [asyncio.create_task(supervisor.run()) for supervisor in supervisors]
    for task in running:
        task.add_done_callback(lambda _: server.stop())  # it ends by itself only by a bug, which is raised below
    await server.serve([sock])
    for supervisor in supervisors:
        supervisor.stop()
    await asyncio.gather(*running)


class _Follow:
    """Keeps a replica in step with its engine's state."""

    def __init__(self, gateway: Gateway, replica: Replica, settings: Settings, on_ready: Callable[[], None]) -> None:
        self._gateway = gateway
        self._replica = replica
        self._settings = settings
        self._on_ready = on_ready
        self._learning: asyncio.Task[None] | None = None

    def __call__(self, change: Announce) -> None:
        if self._learning is not None:
            self._learning.cancel()
            self._learning = None
        self._replica.ready = False
        self._replica.why = f"{change.new.value}: {change.why}"
        if change.new is State.READY:
            self._learning = asyncio.get_running_loop().create_task(self._join())

    async def _join(self) -> None:
        while True:
            try:
                await learn_models(self._replica, self._settings.health_timeout_s)
                break
            except Failure as failure:
                self._replica.why = f"its models are not known yet: {failure}"
                await asyncio.sleep(LEARN_EVERY_S)
        self._gateway.replicas.refresh()
        self._replica.breaker.renew()
        self._replica.ready, self._replica.suspect, self._replica.why = True, False, "generates"
        self._on_ready()
