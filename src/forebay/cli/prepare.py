"""What every command does before it runs: the port bound, logging started; a line each where that cannot be done."""

import contextlib
import resource
import socket

import typer

from forebay.cli.options import fail
from forebay.config.settings import Settings
from forebay.listening import listen, url_of
from forebay.store.database import Database, DatabaseError, open_database
from forebay.telemetry.logging import LogWriter, start_logging


def prepare(
    settings: Settings, host: str, port: int, flag: str = "--port", passed: socket.socket | None = None
) -> tuple[socket.socket, LogWriter]:
    """Bind the port, unless a socket was `passed`, and start logging; each ends the process with one line where it
    cannot be done."""
    raise_file_limit()
    sock = bind(host, port, flag) if passed is None else passed
    try:
        return sock, start_logging(settings)
    except OSError as failure:
        fail(f"log_file: cannot open {settings.log_file}: {failure.strerror}")


def metrics_socket(settings: Settings) -> socket.socket | None:
    """The metrics port, bound, where one is asked for; ends the process where it cannot be."""
    if settings.metrics_port is None:
        return None
    sock = bind(settings.metrics_address, settings.metrics_port, "--metrics-port")
    url = url_of(settings.metrics_address, sock.getsockname()[1], secure=settings.tls_cert_file is not None)
    typer.echo(f"forebay: metrics are at {url}/metrics too")
    return sock


def keys_database(settings: Settings) -> Database | None:
    """The keys' database where one is asked for; ends the process with the fix where it cannot be used."""
    if not settings.uses_database:
        return None
    try:
        return open_database(settings)
    except DatabaseError as wrong:
        fail(f"database: {wrong}")


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket; ends the process where there can be none."""
    try:
        return listen(host, port)
    except OSError as failure:
        fail(f"cannot listen on {host}:{port}: {failure.strerror or failure}; choose another {flag}")


def raise_file_limit() -> None:
    """Connections are file descriptors; take as many as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
