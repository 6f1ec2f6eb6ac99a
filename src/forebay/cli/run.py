"""Running a gateway in this process until it is told to stop."""

import asyncio
import os
import signal
import socket
from collections.abc import Coroutine, Sequence
from typing import Any

import typer
import uvloop

from forebay.cli.options import fail
from forebay.cli.prepare import keys_database, metrics_socket, prepare
from forebay.config.settings import Settings
from forebay.config.sources import Loader
from forebay.gateway.build import Gateway
from forebay.gateway.listener import GatewayServer
from forebay.gateway.reloading import Reloading
from forebay.listening import url_of
from forebay.replicas.discovery.source import Source
from forebay.store.ledger import NoSpool
from forebay.store.tokens import KeySetError
from forebay.systemd import passed_socket
from forebay.telemetry.logging import LogWriter


def run_gateway(settings: Settings, loader: Loader, sources: Sequence[Source]) -> None:
    """Serve over replicas that run elsewhere, until a signal; SIGHUP has settings read and logs opened again."""
    database = keys_database(settings)
    passed = passed_socket(os.environ)
    sock, writer = prepare(settings, settings.host, settings.port, passed=passed)
    announce_address(settings, sock)
    metrics_at = metrics_socket(settings)

    async def run() -> None:
        gateway = Gateway(settings, writer, sources=sources, database=database)
        gateway.reloading = Reloading(gateway, loader)
        reloading = gateway.reloading

        def hang_up() -> None:
            writer.reopen()
            reloading.begin()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        await GatewayServer(gateway, metrics_at, shared=passed is not None).serve([sock])

    until_ended(run(), writer)


def until_ended(serving: Coroutine[Any, Any, None], writer: LogWriter) -> None:
    """Serve to the end, that of the log included; what can be found wrong only then is said like any other mistake."""
    try:
        uvloop.run(serving)
    except KeySetError as wrong:
        fail(f"jwks: {wrong}")
    except NoSpool as wrong:
        fail(str(wrong))
    finally:
        writer.stop()


def announce_address(settings: Settings, sock: socket.socket) -> None:
    """Say where the gateway listens, and that it is open where it is."""
    typer.echo(f"forebay: listening on {base_url(settings, sock)}")
    if not settings.asks_for_keys:
        reach = "callers on this machine" if not settings.allow_anonymous else "anybody who reaches the port"
        typer.secho(f"forebay: no API key is set, so {reach} can use it; set API_KEYS to ask for one", fg="yellow")


def base_url(settings: Settings, sock: socket.socket) -> str:
    """The URL that callers use."""
    return url_of(settings.host, sock.getsockname()[1], secure=settings.tls_cert_file is not None)
