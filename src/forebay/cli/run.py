"""Running a gateway in this process until it is told to stop."""

import contextlib
import resource
import socket
from collections.abc import Sequence

import typer
import uvloop

from forebay.cli.options import fail
from forebay.config.settings import Settings
from forebay.gateway.build import Gateway, GatewayServer, listen
from forebay.replicas.discovery.source import Source
from forebay.telemetry.logging import LogWriter, start_logging


def run_gateway(settings: Settings, sources: Sequence[Source]) -> None:
    """Serve over replicas that run elsewhere, until a signal."""
    sock, writer = prepare(settings)
    announce_address(settings, sock)

    async def run() -> None:
        await GatewayServer(Gateway(settings, writer, sources=sources)).serve([sock])

    try:
        uvloop.run(run())
    finally:
        writer.stop()


def prepare(settings: Settings) -> tuple[socket.socket, LogWriter]:
    """Bind the port and start logging; each ends the process with one line where it cannot be done."""
    raise_file_limit()
    try:
        sock = listen(settings.host, settings.port)
    except OSError as failure:
        fail(f"cannot listen on {settings.host}:{settings.port}: {failure.strerror or failure}; choose another --port")
    try:
        return sock, start_logging(settings)
    except OSError as failure:
        fail(f"log_file: cannot open {settings.log_file}: {failure.strerror}")


def announce_address(settings: Settings, sock: socket.socket) -> None:
    """Say where the gateway listens, and that it is open where it is."""
    typer.echo(f"forebay: listening on {base_url(settings, sock)}")
    if not settings.api_keys:
        reach = "callers on this machine" if not settings.allow_anonymous else "anybody who reaches the port"
        typer.secho(f"forebay: no API key is set, so {reach} can use it; set API_KEYS to ask for one", fg="yellow")


def base_url(settings: Settings, sock: socket.socket) -> str:
    """The URL that callers use."""
    scheme = "https" if settings.tls_cert_file else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{sock.getsockname()[1]}"


def raise_file_limit() -> None:
    """Connections are file descriptors; take as many as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
