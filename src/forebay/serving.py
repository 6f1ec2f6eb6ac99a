"""The wiring of `forebay serve`: a gateway over engines that this process supervises."""

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from forebay.config.settings import Settings
from forebay.config.sources import Loader
from forebay.fleet import Fleet, Slot
from forebay.gateway.build import Gateway
from forebay.gateway.listener import GatewayServer
from forebay.gateway.reloading import Reloading
from forebay.rollout import Rollout
from forebay.store.audit import Actor
from forebay.store.database import Database
from forebay.telemetry.logging import LogWriter


async def serve_engines(
    settings: Settings,
    slots: list[Slot],
    read_slots: Callable[[], list[Slot]],
    directory: Path,
    writer: LogWriter,
    sock: socket.socket,
    on_ready: Callable[[], None],
    loader: Loader | None = None,
    database: Database | None = None,
    metrics_at: socket.socket | None = None,
    *,
    shared: bool = False,
) -> None:
    """Start an engine in each slot and serve over them until a signal; then drain, and end them.

    SIGHUP has a log file opened again and the settings read again by `loader`, and begins a rollout to the slots that
    `read_slots` then tells. Sockets are made in `directory`; `on_ready` is called each time an engine has joined;
    `metrics_at` is the bound metrics port, where there is one; `shared` is whether `sock` outlives this process.
    """
    gateway = Gateway(settings, writer, database=database)
    server = GatewayServer(gateway, metrics_at, shared=shared)
    fleet = Fleet(gateway, directory, on_ready, server.stop)
    gateway.on_stall = fleet.stalled
    gateway.rollout = rollout = Rollout(fleet, read_slots)
    if loader is not None:
        gateway.reloading = Reloading(gateway, loader)
    loop = asyncio.get_running_loop()

    def read_again() -> None:
        writer.reopen()
        if gateway.reloading is not None:
            gateway.reloading.begin()
        if rollout.begin():
            loop.run_in_executor(None, gateway.audit.note, Actor("SIGHUP", ""), "rollout.begun")

    loop.add_signal_handler(signal.SIGHUP, read_again)
    for slot in slots:
        fleet.start(slot)
    await server.serve([sock])
    await rollout.stop()
    await fleet.end()
