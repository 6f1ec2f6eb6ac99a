"""Answers → bytes out. The sending half of a client connection: whole answers, streams, and gentle endings.

Everything goes by way of the gateway's outbox, which is flushed before a connection is ended.
"""

import asyncio
from collections import deque
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from forebay.gateway.errors import error_body, error_headers, id_lines
from forebay.gateway.exchange import Exchange
from forebay.gateway.routes import dialect_of
from forebay.refusals import Refusal
from forebay.room import Held

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

COPIED_BYTES = 256 * 1024
_STREAM_HEAD = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"


class Phase(Enum):
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    DEAF = "deaf"


_IDLE, _, _, _DEAF = Phase


class Answering(HttpToolsProtocol):
    """The sending half; the rest of a connection is made upon it. `current` is the request being answered, `_waiting`
    are those behind it (`in_order.py`)."""

    def __init__(
        self,
        gateway: "Gateway",
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.gateway = gateway
        self.policies = gateway.pipeline
        self.address = ""
        self.url = b""
        self.current: Exchange | RequestResponseCycle | None = None
        self._waiting: deque[Exchange | RequestResponseCycle] = deque()
        self._outbox = gateway.outbox
        self._phase = _IDLE
        self._since = monotonic()  # when the phase began
        self._show_replica = False
        self._chunked = True
        self._closes_after = False
        self._closing_gently = False
        self._last_words: Refusal | None = None  # said when all that was received has been answered

    def respond(
        self,
        exchange: Exchange,
        status: int,
        content_type: bytes,
        body: Held,
        extra: bytes = b"",
        close: bool = False,
    ) -> None:
        """Send a whole answer. `extra` are more header lines; `close` ends the connection after it.

        A large body goes out as it is, behind the head: to copy one of 40 MB would hold everybody up.
        """
        exchange.answer_status = status
        exchange.bytes_out = len(body)
        if self.transport.is_closing():
            return
        closing = close or not self._stays_open()
        apart = len(body) > COPIED_BYTES
        self._outbox.put(
            self.transport,
            b"".join(
                (
                    STATUS_LINE[status],
                    self.gateway.date_line,
                    b"content-type: ",
                    content_type,
                    b"\r\n",
                    id_lines(exchange.request_id, exchange.route.dialect),
                    self._common_lines(exchange),
                    b"connection: close\r\n" + extra if closing else extra,
                    b"content-length: %d\r\n\r\n" % len(body),
                    b"" if apart else body,
                )
            ),
        )
        if apart:
            self._outbox.put(self.transport, body)
        if closing:
            self._close_gently()

    def start_stream(self, exchange: Exchange, events: bytes) -> None:
        """Send the head of a stream and its first events."""
        exchange.answer_status = 200
        lines = b"transfer-encoding: chunked\r\n" if exchange.head.http11 else b""
        self._closes_after = not self._stays_open()
        if self._closes_after:
            lines += b"connection: close\r\n"
        self._chunked = exchange.head.http11
        head = b"%s%s%s%s%s%s\r\n" % (
            STATUS_LINE[200],
            self.gateway.date_line,
            _STREAM_HEAD,
            id_lines(exchange.request_id, exchange.route.dialect),
            self._common_lines(exchange),
            lines,
        )
        self._outbox.put(self.transport, head + self._framed(events))

    def write_stream(self, events: bytes) -> None:
        """Send more events of a stream."""
        self._outbox.put(self.transport, b"%x\r\n%s\r\n" % (len(events), events) if self._chunked else events)

    def end_stream(self, events: bytes) -> None:
        """Send the last events of a stream, if any, and its end.

        The connection closes only if the head said so: a client that was not told may be sending its next request.
        """
        end = b"0\r\n\r\n" if self._chunked else b""
        self._outbox.put(self.transport, (self._framed(events) if events else b"") + end)
        if self._closes_after or (self._phase is _DEAF and not self._stays_open()):
            self._close_gently()

    def _framed(self, events: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(events), events) if self._chunked else events

    def _stays_open(self) -> bool:
        """Whether another answer may follow on this connection."""
        if self._waiting or self._last_words is not None:
            return True
        return self._phase is not _DEAF and not self.policies.draining

    def _common_lines(self, exchange: Exchange) -> bytes:
        origin = exchange.headers.get(b"origin")
        lines = exchange.lines
        if origin is not None:
            lines += self.gateway.cors_lines(origin)
        if self._show_replica and exchange.replica is not None and self._may_see_replica(exchange):
            lines += b"x-forebay-replica: %s\r\n" % exchange.replica.name.encode("ascii", "replace")
        return lines

    def _may_see_replica(self, exchange: Exchange) -> bool:
        who = exchange.principal
        return self.gateway.settings.show_replica == "always" or (who is not None and "admin" in who.scopes)

    # Ending a connection
    def _close_gently(self) -> None:
        """Close after what is written, still reading for a while: closing at once would turn unread input into a
        reset, which can destroy the answer before the client has read it."""
        self._phase, self._since = _DEAF, monotonic()
        self._closing_gently = True
        self._outbox.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _answer_raw(self, refusal: Refusal) -> None:
        """Refuse a request that cannot be understood, or not be waited for, and close."""
        self._phase, self._since = _DEAF, monotonic()
        if self.current is not None or self._waiting:  # earlier answers come first
            self._last_words = refusal
            return
        request_id, dialect = self.gateway.new_request_id(), dialect_of(self.url)
        body = error_body(refusal, dialect, request_id)
        self._outbox.put(
            self.transport,
            b"%s%scontent-type: application/json\r\n%s%scontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s"
            % (
                STATUS_LINE[refusal.status],
                self.gateway.date_line,
                id_lines(request_id, dialect),
                error_headers(refusal),
                len(body),
                body,
            ),
        )
        self._close_gently()
        self.gateway.recorder.unreadable(refusal, self.address, request_id)
