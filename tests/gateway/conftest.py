"""A real gateway on a real port, in the test's own event loop (uvloop, as in production)."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from prometheus_client.exposition import generate_latest

from forebay.config.settings import Settings
from forebay.config.sources import load_settings
from forebay.gateway.build import Gateway
from forebay.gateway.listener import GatewayServer
from forebay.listening import listen
from forebay.replicas.discovery.named import discovery_sources
from forebay.replicas.discovery.source import Source
from forebay.store.database import open_database
from forebay.telemetry.logging import LineHandler, LogWriter
from forebay.telemetry.redaction import Redactor, secrets_of

KEY = "sk-test"


@dataclass
class Running:
    """A gateway that serves."""

    url: str
    gateway: Gateway
    server: GatewayServer
    log_file: Path
    metrics_url: str
    _writer: LogWriter
    _serving: "asyncio.Task[None]"

    async def stop(self) -> None:
        """End it as SIGTERM does, and wait until it has."""
        self.server.stop()
        await self._serving
        self._writer.stop()

    def log_lines(self) -> list[dict[str, Any]]:
        """What has been logged; after `stop`, all of it."""
        return [msgspec.json.decode(line) for line in self.log_file.read_bytes().splitlines()]

    def figures(self) -> dict[str, float]:
        """Its metrics, by name with labels as Prometheus's text has them."""
        lines = generate_latest(self.gateway.metrics.registry).decode().split("\n")[:-1]
        return {(pair := line.rsplit(" ", 1))[0]: float(pair[1]) for line in lines if not line.startswith("#")}


StartGateway = Callable[..., AbstractAsyncContextManager[Running]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def start_gateway(tmp_path: Path) -> StartGateway:
    """`async with start_gateway(engine.url, …) as running:` with settings by name; the key is `sk-test`.

    Requests are shared out among engines unless a test asks for `prefix`: most tests send the same one again and again.
    `sources` are there instead of those that the settings make of the URLs.
    """

    @asynccontextmanager
    async def start(
        *upstreams: str, ready: bool = True, sources: Sequence[Source] | None = None, **flags: Any
    ) -> AsyncIterator[Running]:
        usual: dict[str, Any] = {"api_keys": (KEY,), "port": 0, "health_interval_s": 0.2, "drain_timeout_s": 5.0}
        usual["usage_spool_dir"] = tmp_path / "spool"
        flags = {**usual, "routing": "least_outstanding", **flags}
        settings, _ = load_settings({"upstream": upstreams, **flags}, env={})
        sources = sources if sources is not None else discovery_sources(settings)
        async with _serve(settings, sources, tmp_path / "gateway.log") as running:
            while ready and not running.gateway.replicas.ready:
                await asyncio.sleep(0.005)
            yield running

    return start


@asynccontextmanager
async def _serve(settings: Settings, sources: Sequence[Source], log_file: Path) -> AsyncIterator[Running]:
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writer = LogWriter(descriptor, text=False, redactor=Redactor(secrets_of(settings)))
    writer.start()
    logging.getLogger("forebay").handlers = [LineHandler(writer)]
    logging.getLogger("forebay").setLevel("INFO")
    sock = listen(settings.host, settings.port)
    database = open_database(settings) if settings.uses_database else None
    gateway = Gateway(settings, writer, sources=sources, database=database)
    metrics_at = listen(settings.metrics_address, settings.metrics_port) if settings.metrics_port is not None else None
    metrics_url = f"http://127.0.0.1:{metrics_at.getsockname()[1]}" if metrics_at is not None else ""
    server = GatewayServer(gateway, metrics_at)
    serving = asyncio.create_task(server.serve([sock]))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    running = Running(url, gateway, server, log_file, metrics_url, writer, serving)
    try:
        yield running
    finally:
        await running.stop()
        os.close(descriptor)
        logging.getLogger("forebay").handlers = []
