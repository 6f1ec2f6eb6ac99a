"""The server that listens for a gateway's callers, and how it ends."""

import asyncio
import contextlib
import logging
import socket
from functools import partial
from time import monotonic
from types import FrameType

import uvicorn

from forebay.ending import Ending
from forebay.gateway.app import make_app
from forebay.gateway.build import Gateway
from forebay.gateway.metrics_port import MetricsPort
from forebay.gateway.server import ClientConnection
from forebay.listening import find_the_gone
from forebay.systemd import keep_told, notify

log = logging.getLogger("forebay.gateway")

FLUSH_S = 1.0
LONGEST_UNREADY_S = 10.0  # after that who asks is told that no engine is ready


class GatewayServer(uvicorn.Server):
    """uvicorn's server with our way of ending.

    First SIGTERM or SIGINT: readiness says 503 at once; after `drain_delay_s` no connection is accepted; what runs may
    finish for `drain_timeout_s`, then gets an error. A second signal skips the waiting.

    A `shared` socket may have another gateway at it, whose place this one takes: it accepts nothing before it has an
    engine to send requests to, or that takes long. What nobody has accepted then is still in the socket's queue.
    """

    def __init__(self, gateway: Gateway, metrics_socket: socket.socket | None = None, *, shared: bool = False) -> None:
        settings = gateway.settings
        super().__init__(
            uvicorn.Config(
                make_app(gateway),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=settings.tls_cert_file,
                ssl_keyfile=settings.tls_key_file,
                backlog=4096,
            )
        )
        self._gateway = gateway
        self._ending = Ending()
        self._shared = shared
        self._metrics_port = MetricsPort(gateway, metrics_socket) if metrics_socket is not None else None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._ending.on_signal(sig, frame)

    def stop(self) -> None:
        """Begin to end, as a signal does."""
        self._ending.begun.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending.enter()
        self._gateway.start(self.server_state.connections)
        if self._metrics_port is not None:
            await self._metrics_port.start()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """In the place of uvicorn's own, which gives a TLS handshake a minute, and connections no keep-alive."""
        settings, config, loop = self._gateway.settings, self.config, asyncio.get_running_loop()
        listening = self._gateway.listening = list(sockets or [])
        self.servers = []
        if self._gateway.certificate is not None and config.ssl is not None:
            self._gateway.certificate.shown_by(config.ssl)
        if self._shared:
            await self._until_ready()
        for sock in listening:
            find_the_gone(sock, settings.write_timeout_s)
            self.servers.append(
                await loop.create_server(
                    self._connection,
                    sock=sock,
                    ssl=config.ssl,
                    backlog=config.backlog,
                    ssl_handshake_timeout=settings.header_timeout_s if config.ssl is not None else None,
                )
            )
        self.started = True
        gateway = self._gateway
        gateway.background.start("systemd", partial(keep_told, lambda: gateway.readiness()[0]))

    async def _until_ready(self) -> None:
        until = monotonic() + LONGEST_UNREADY_S
        while not self._gateway.readiness()[0] and not self._ending.begun.is_set() and monotonic() < until:
            await asyncio.sleep(0.01)

    def _connection(self) -> ClientConnection:
        return ClientConnection(self._gateway, self.config, self.server_state, {})

    async def main_loop(self) -> None:
        await self._ending.begun.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        gateway, settings = self._gateway, self._gateway.settings
        gateway.pipeline.draining = True
        notify("STOPPING=1")
        log.info("draining", extra={"running": len(gateway.pipeline.running)})
        await self._ending.unless_hurried(asyncio.sleep(settings.drain_delay_s))
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await self._ending.unless_hurried(asyncio.wait_for(gateway.drained(), settings.drain_timeout_s))
        if gateway.pipeline.running:
            log.warning("drain time is over", extra={"cut_off": len(gateway.pipeline.running)})
            gateway.pipeline.cut_off(monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gateway.drained(), FLUSH_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self._metrics_port is not None:
            self._metrics_port.stop()
        await gateway.stop()
