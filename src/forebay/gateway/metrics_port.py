"""A port of its own for those who watch: /metrics and /health, and nothing that callers use.

It has connections, and a bound on them, of its own, so that it answers while callers hold all that they may; and it is
served until the gateway's drain is over.
"""

import asyncio
import socket
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.server import ServerState

from forebay.descriptors import SPARE
from forebay.gateway.app import make_metrics_app
from forebay.gateway.routes import Route
from forebay.gateway.server import ClientConnection
from forebay.listening import find_the_gone

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway


class WatcherConnection(ClientConnection):
    """A connection on which nothing is relayed."""

    @staticmethod
    def find_route(method: bytes, target: bytes) -> Route | None:
        return None

    def _room(self) -> int:
        return SPARE


class MetricsPort:
    """Serves one socket, from `start` until `stop`."""

    def __init__(self, gateway: "Gateway", sock: socket.socket) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._socket = sock
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._config = uvicorn.Config(
            make_metrics_app(gateway),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ssl_certfile=settings.tls_cert_file,
            ssl_keyfile=settings.tls_key_file,
        )

    def __repr__(self) -> str:
        return f"<MetricsPort {len(self._state.connections)} connections>"

    async def start(self) -> None:
        self._config.load()
        self._gateway.watchers = self._state.connections
        if self._gateway.certificate is not None and self._config.ssl is not None:
            self._gateway.certificate.shown_by(self._config.ssl)
        settings = self._gateway.settings
        find_the_gone(self._socket, settings.write_timeout_s)
        self._server = await asyncio.get_running_loop().create_server(
            self._connection,
            sock=self._socket,
            ssl=self._config.ssl,
            ssl_handshake_timeout=settings.header_timeout_s if self._config.ssl is not None else None,
        )

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for connection in list(self._state.connections):
            connection.transport.abort()

    def _connection(self) -> WatcherConnection:
        return WatcherConnection(self._gateway, self._config, self._state, {})
