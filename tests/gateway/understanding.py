"""What a connection understands of bytes, without sockets and engines: each relayed request is answered at once."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from forebay.config.sources import load_settings
from forebay.gateway.build import Gateway
from forebay.gateway.exchange import Exchange
from forebay.gateway.listener import GatewayServer
from forebay.gateway.pipeline import Pipeline
from forebay.gateway.server import ClientConnection
from forebay.telemetry.logging import LogWriter


class Wire:
    """The transport's part of a connection: keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def taken(self) -> bytes:
        """What was written since this was last asked."""
        written, self.written = self.written, b""
        return written

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closing = True

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Listening(Pipeline):
    """Answers everything at once and remembers the bodies it was given, None where it refused to look."""

    def begin(self, exchange: Exchange, now: float) -> None:
        self.running.add(exchange)
        if exchange.refusal is not None:
            self.bodies.append(None)
            self.refuse(exchange, exchange.refusal, now)
            return
        self.bodies.append(exchange.body)
        exchange.client.respond(exchange, 200, b"text/plain", b"ok")
        self.finish(exchange, "answered", now)


Understand = Callable[..., tuple[list[bytes | None], bytes]]


@contextmanager
def understanding() -> Iterator[Understand]:
    """Feed pieces to a new connection; returns the bodies of the relayed requests it understood, and its answers.

    `forgetful` is a connection that parses every head, never taking one for the same as before.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    settings_, _ = load_settings({"api_keys": ("sk-test",), "access_log": False}, env={})
    gateway = Gateway(settings_, LogWriter(2, text=False), [])
    gateway.pipeline.__class__ = Listening
    server = GatewayServer(gateway)
    server.config.load()

    def feed(parts: list[bytes], *, forgetful: bool = False) -> tuple[list[bytes | None], bytes]:
        bodies: list[bytes | None] = []
        gateway.pipeline.bodies = bodies  # type: ignore[attr-defined]
        wire = Wire()
        connection = ClientConnection(gateway, server.config, server.server_state, {}, loop)
        connection.connection_made(wire)  # type: ignore[arg-type]
        loop.run_until_complete(feed_all(connection, parts, forgetful=forgetful))
        for task in list(server.server_state.tasks):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        connection.connection_lost(None)
        return bodies, wire.written

    async def feed_all(connection: ClientConnection, parts: list[bytes], *, forgetful: bool) -> None:
        for part in parts:
            connection.data_received(part)
            if forgetful:
                connection.change(settings_)
        await asyncio.sleep(0)

    yield feed
    loop.close()
