"""One HTTP/1.1 connection to an engine: one request at a time, its answer handed on as it arrives.

A connection is CONNECTING, then BUSY or IDLE, then CLOSED. While it is BUSY it has a reader, which is told, in this
order and nothing after the last: `head` once, `block` any number of times, then either `end` or `failed`; `now` is
monotonic seconds.
`cancel()` is the reader's own way out: nothing more is told, and the engine sees the connection close, which makes
it abort the generation. A connection whose answer was not read to its end is never used again.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from forebay.failures import Failure, FailureKind
from forebay.outbox import Outbox
from forebay.wire.known_head import KnownHead

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_INTERIM_ANSWERS = 8
MAX_BARREN_BYTES = 64 * 1024  # of chunk extensions and trailers, while nothing of the body comes


class Reader(Protocol):
    """What takes an answer."""

    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None: ...
    def block(self, data: bytes, now: float) -> None: ...
    def end(self, now: float) -> None: ...
    def failed(self, failure: Failure) -> None: ...


class Connection(asyncio.Protocol):
    """See the module's text. `on_idle` and `on_closed` tell the pool; `reused` says whether it served before."""

    def __init__(
        self, outbox: Outbox, on_idle: Callable[["Connection"], None], on_closed: Callable[["Connection"], None]
    ) -> None:
        self._outbox = outbox
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._request = b""
        self._parser = httptools.HttpResponseParser(self)
        self._interim = 0
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = self._head_fed = self._barren_bytes = 0
        self._head_ready = self._head_done = False
        self._blocks: list[bytes] = []
        self._complete = self._keep_alive = False
        self._known: KnownHead[dict[bytes, bytes]] | None = None  # the head of an answer with status 200
        self.reused = False
        self.closed = False
        self.idle_since = 0.0

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._reader else "idle" if self._transport else "connecting"
        return f"<Connection {state}{' reused' if self.reused else ''}>"

    def send(self, request: bytes, reader: Reader) -> None:
        """Send one whole request; its answer goes to `reader`. Only on a new or an idle connection."""
        self._reader = reader
        if self._transport is None:
            self._request = request
        else:
            self._outbox.put(self._transport, request)

    def cancel(self) -> None:
        """Give up the answer: tell the reader nothing more and close at once, so that the engine notices."""
        self._reader = None
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if self._transport is not None:
                self._transport.abort()
            self._on_closed(self)

    def pause(self) -> None:
        """Stop reading: the engine's writes back up in the socket. No effect once closed."""
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    def fail(self, kind: FailureKind, detail: str) -> None:
        """End the attempt with a failure of `kind`, and the connection with it."""
        reader, self._reader = self._reader, None
        failure = Failure(kind, detail, stale=self.reused and self._status == 0 and not self._head_fed)
        self.close()
        if reader is not None:
            reader.failed(failure)

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.closed:  # cancelled while connecting
            self._transport.abort()
            return
        self._transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        if self._reader is None:  # bytes that answer nothing: the two sides no longer agree
            self.close()
            return
        begins = self._status == 0 and self._head_fed == 0
        if begins and (known := self._known) is not None and (body := known.body_of(data)) is not None:
            self._take_whole(known, body)
        else:
            self._parse(data, begins=begins)

    def _take_whole(self, known: KnownHead[dict[bytes, bytes]], body: bytes) -> None:
        """A whole answer with a head as one before."""
        known.again = True
        reader, now = self._reader, time.monotonic()
        assert reader is not None
        self._status = 200
        reader.head(200, known.read, now)
        if self._reader is not None:
            reader.block(body, now)
        if self._reader is not None:
            self._status = 0
            self._finish(now, keep=True)

    def _parse(self, data: bytes, *, begins: bool) -> None:
        assert self._reader is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail("invalid", f"not a valid HTTP answer: {error.__context__ or error}")
            return
        except httptools.HttpParserUpgrade:
            self.fail("invalid", "answered with an upgrade")
            return
        now = time.monotonic()
        if self._head_ready:
            self._head_ready = False
            self._reader.head(self._status, self._headers, now)
        elif not self._head_done:
            self._head_fed += len(data)
            if self._head_fed > MAX_HEAD_BYTES:
                self.fail("invalid", "answer's header section is too large")
                return
        if not self._blocks:
            self._barren_bytes += len(data)
            if self._barren_bytes > MAX_BARREN_BYTES and not self._complete:
                self.fail("invalid", "answer has too much beside its body")
                return
        elif self._reader is not None:
            self._barren_bytes = 0
            blocks, self._blocks = self._blocks, []
            self._reader.block(blocks[0] if len(blocks) == 1 else b"".join(blocks), now)
        if self._complete and self._reader is not None:
            if begins and self._status == 200 and self._keep_alive and (self._known is None or self._known.again):
                self._known = KnownHead.of(data, self._headers)
            keep = self._keep_alive
            self._clear_answer()
            self._finish(now, keep=keep)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("closed", str(exc) if exc else "connection closed by the engine")

    def _finish(self, now: float, *, keep: bool) -> None:
        """The answer is whole, and nothing of it is left here."""
        reader, self._reader = self._reader, None
        self.reused = True
        if keep and not self.closed:
            self.idle_since = now
            self._on_idle(self)
        else:
            self.close()
        assert reader is not None
        reader.end(now)

    def _clear_answer(self) -> None:
        self._status = 0
        self._headers = {}
        self._head_bytes = self._head_fed = self._barren_bytes = 0
        self._head_ready = self._head_done = False
        self._blocks = []
        self._complete = self._keep_alive = False

    # httptools callbacks
    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self._headers) >= MAX_HEADERS:
            raise ValueError("header section is too large")
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM_ANSWERS or status == 101:
                raise ValueError("too many interim answers")
            self._headers = {}
            return
        framed = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        if not framed and status not in (204, 304):
            raise ValueError("answer has neither content-length nor chunked encoding, so its end cannot be told")
        self._status = status
        self._head_done = self._head_ready = True
        self._interim = 0

    def on_body(self, body: bytes) -> None:
        self._blocks.append(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()
