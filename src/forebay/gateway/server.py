"""Bytes in → requests. The receiving half of a client connection: framing, sizes, deadlines, what is refused unread.

uvicorn runs the server (sockets, TLS, shutdown); this is its protocol class. A request for a relayed endpoint becomes
an `Exchange` and goes straight to the pipeline, with no ASGI cycle; every other request becomes uvicorn's own
ASGI cycle for the FastAPI application. Whose turn it is to be answered: `in_order.py`. How: `answering.py`.

A connection is, on its receiving side, in one of these phases, each with its deadline (`check`):

    IDLE      between requests                      keepalive_timeout_s (header_timeout_s before the first)
    HEAD      a request's header section arrives    header_timeout_s in all
    BODY      its body arrives                      body_timeout_s between bytes, and at least 1 KiB/s
    DEAF      the answer that closes is being sent  2 s; what still arrives is thrown away

httptools (llhttp) does the parsing and refuses what is ambiguous (both lengths, bad chunk sizes, bare LF, folded
headers …); what it lets through and we do not is refused by `wire/head.py`. uvicorn bounds none of the sizes and times.
"""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from forebay.gateway.answering import Phase
from forebay.gateway.asgi import make_cycle
from forebay.gateway.errors import no_room
from forebay.gateway.exchange import Exchange, Head
from forebay.gateway.in_order import AnsweringInOrder
from forebay.gateway.routes import find_route, is_for_operators, takes_file
from forebay.gateway.spare import SPARE_IDLE_S, too_many
from forebay.refusals import BodyTooLarge, HeadersTooLarge, InvalidHeader, Refusal, RequestTimeout, URLTooLong
from forebay.room import SMALL_BYTES, Held, joined
from forebay.wire.head import check_fields, check_host, check_line
from forebay.wire.known_head import KnownHead

if TYPE_CHECKING:
    from forebay.config.settings import Settings
    from forebay.gateway.build import Gateway

MIN_BODY_BYTES_PER_S = 1024
LINGER_S = 2.0
DRAINING_IDLE_S = 1.0
DRAINED_BODY_BYTES = 64 * 1024  # a refused request's body up to this size is read, so that the connection lives on

_IDLE, _HEAD, _BODY, _DEAF = Phase  # names without a dot: these are compared a dozen times a request


class _AnsweredAndClosing(Exception):
    """Raised out of the parser: nothing more of this connection's input counts."""


class ClientConnection(AnsweringInOrder):
    """A whole connection. `_arriving` is the request whose head is known and whose body is not all there yet; one for
    the application may have its turn by then."""

    find_route = staticmethod(find_route)

    def __init__(
        self,
        gateway: "Gateway",
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(gateway, config, server_state, app_state, _loop)
        self.parser = httptools.HttpRequestParser(self)  # uvicorn's is lenient about data after the last request
        self._arriving: Exchange | RequestResponseCycle | None = None
        self._now = self._since
        self._fed = 0
        self._checked_host: bytes | None = None
        self._unseen_bytes = 0
        self._told = False
        self.change(gateway.settings)
        self._body_started, self._body_bytes, self._most_body_bytes = 0.0, 0, 0
        self._body: Held = b""
        self._more_may_come = True
        self._known: KnownHead[Head] | None = None
        self._forwarded = False  # it is a proxy that is trusted
        self._spare = False  # it is one more than callers may have
        self._message = b""  # the data being parsed, if a message begins with them

    def __repr__(self) -> str:
        return f"<ClientConnection {self.address} {self._phase.value} answering={self.current!r}>"

    def change(self, settings: "Settings") -> None:
        """Work by other settings from now on."""
        self.limits = settings
        self._known = None  # it was taken by other limits
        self._most_connections = min(settings.max_connections, self._room())
        self._max_headers = settings.max_headers
        self._small_bytes = min(settings.max_body_bytes, SMALL_BYTES)
        self._show_replica = settings.show_replica != "never"

    def _room(self) -> int:
        """How many connections like this one there are file descriptors for."""
        return self.gateway.most_callers

    # Connection events
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._forwarded = self.gateway.proxies.trusts(self.address)
        if (over := len(self.connections) - self._most_connections) > 0:
            self._spare = self.gateway.spare.take(self, over)
            if not self._spare:
                self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._phase is _DEAF or self.parser is None:
            return
        self._now = monotonic()
        begins = self._phase is _IDLE
        if begins and (known := self._known) is not None and (body := known.body_of(data)) is not None:
            known.again = True
            self._take_whole(known.read, body)
            return
        self._fed = len(data)
        self._message = data if begins else b""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._answer_raw(InvalidHeader("Upgrades and CONNECT are not offered."))
        except httptools.HttpParserError as error:
            self._input_failed(error)
        else:
            if self._phase is not _IDLE:
                self._bound_unseen()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gateway.spare.forget(self)
        self._let_go(self._arriving)

    def check(self, now: float) -> None:
        """Enforce the deadlines of the phase; called about twice a second."""
        age, limits = now - self._since, self.limits
        if self._unread_since and now - self._unread_since > limits.write_timeout_s:
            self._check_unread(now)
        if self._waiting and not self.transport.is_closing():
            self._check_there()
        match self._phase:
            case Phase.IDLE:
                if self.current is None:
                    limit = limits.keepalive_timeout_s if self._served else limits.header_timeout_s
                    if self.gateway.pipeline.draining:
                        limit = min(limit, DRAINING_IDLE_S)
                    if self._spare:
                        limit = min(limit, SPARE_IDLE_S)
                    if age > limit:
                        self.transport.close()
            case Phase.HEAD:
                if age > (SPARE_IDLE_S if self._spare else limits.header_timeout_s):
                    self._arrived_too_slowly()
            case Phase.BODY:
                slow = now - self._body_started > limits.body_timeout_s + self._body_bytes / MIN_BODY_BYTES_PER_S
                if age > limits.body_timeout_s or slow:
                    self._arrived_too_slowly()
            case Phase.DEAF:
                if self.current is None and age > LINGER_S:
                    self.transport.abort()

    def rested_s(self, now: float) -> float:
        """For how long it has been kept alive and nothing came; 0 where something is under way, or never came."""
        rests = self._served and self._phase is _IDLE and self.current is None and not self._waiting
        return now - self._since if rests else 0.0

    # Parser callbacks
    def on_message_begin(self) -> None:
        if self._phase is _DEAF:
            raise _AnsweredAndClosing
        self._phase, self._since = _HEAD, self._now
        self.url = b""
        self.headers = []
        self._told = True
        self._arriving = None

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.limits.max_url_bytes:
            raise URLTooLong(f"The request target is longer than {self.limits.max_url_bytes} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
        if len(self.headers) > self._max_headers:
            raise HeadersTooLarge(f"There are more than {self._max_headers} headers.")

    def on_headers_complete(self) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        fields, self.headers = self.headers, []  # what `on_header` is given from here on are trailers: dropped
        headers = dict(fields)
        route = self.find_route(method, self.url)
        if self._spare and (route is not None or not is_for_operators(self.url)):
            raise too_many()
        if route is None:
            check_line(method, self.url, version)
        elif version != "1.1":
            check_line(method, b"/", version)
        most_body = self.limits.max_body_bytes
        if route is None and takes_file(method, self.url):
            most_body = self.limits.max_file_bytes
        length = check_fields(fields, headers, version, most_body)
        if (host := headers.get(b"host")) is None or host != self._checked_host:
            check_host(host, version)
            self._checked_host = host
        most = self.limits.max_header_bytes
        if self._fed + self._unseen_bytes > most and sum(len(name) + len(value) + 4 for name, value in fields) > most:
            raise HeadersTooLarge(f"The headers exceed {most} bytes.")
        self._phase = _BODY
        self._since = self._body_started = self._now
        self._body_bytes, self._most_body_bytes = 0, most_body
        self._body = b""
        self._more_may_come = version == "1.1" and self.parser.should_keep_alive() and not self._spare
        if route is None:
            cycle = self._arriving = self.cycle = make_cycle(
                self, method, version, fields, address=self.address_of(headers), keep_alive=self._more_may_come
            )
            self._received(cycle, self._now)
            return
        head = Head(route, headers, version == "1.1", self.address_of(headers))
        exchange = self._arriving = Exchange(self, head, route, headers, self._since)
        try:
            self.policies.identify(exchange)
        except Refusal as refusal:
            exchange.refusal = refusal
            refusal.close = refusal.close or length > DRAINED_BODY_BYTES
        if length and exchange.refusal is None and headers.get(b"expect") is not None and self.current is None:
            self._outbox.put(self.transport, b"HTTP/1.1 100 Continue\r\n\r\n")
        elif exchange.refusal is not None and exchange.refusal.close:
            self._refuse_unread(exchange)

    def _take_whole(self, head: Head, body: bytes) -> None:
        """A whole relayed request, with a head as one before."""
        exchange = Exchange(self, head, head.route, head.headers, self._now, body)
        self._since = self._now
        try:
            if len(body) > self._small_bytes:
                self._hold(exchange, len(body), self.limits.max_body_bytes)
            self.policies.identify(exchange)
        except Refusal as refusal:
            exchange.refusal = refusal
        self._received(exchange, self._now)

    def on_body(self, body: bytes) -> None:
        self._told = True
        self._since = self._now
        self._body_bytes += len(body)
        arriving = self._arriving
        if self._body_bytes > self._small_bytes:
            takes = arriving if isinstance(arriving, Exchange) and arriving.refusal is None else None
            self._hold(takes, self._body_bytes, self._most_body_bytes)
        if isinstance(arriving, Exchange):
            if arriving.refusal is None:
                self._body = joined(self._body, body)
            elif self._body_bytes > DRAINED_BODY_BYTES:
                arriving.refusal.close = True
                self._refuse_unread(arriving)
        elif arriving is not None and not arriving.response_complete:
            arriving.body += body
            arriving.message_event.set()
            if len(arriving.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()  # until the application takes what there is

    def on_message_complete(self) -> None:
        self._phase = _IDLE if self._more_may_come else _DEAF
        self._since = self._now
        arriving, self._arriving = self._arriving, None
        if isinstance(arriving, Exchange):
            arriving.body, self._body = bytes(self._body), b""
            if self._message and self._more_may_come and (self._known is None or self._known.again):
                self._known = KnownHead.of(self._message, arriving.head)
            self._received(arriving, self._now)
        elif arriving is not None:
            arriving.more_body = False
            arriving.message_event.set()

    def _hold(self, exchange: Exchange | None, size: int, most: int) -> None:
        """Check a body that is not small, and count it where it is held. Raises `BodyTooLarge` and `Overloaded`."""
        if size > most:
            raise BodyTooLarge(f"The body is larger than {most} bytes.")
        if exchange is None or size <= SMALL_BYTES:
            return
        if not self.gateway.room.take(size - exchange.held_bytes):
            raise no_room()
        exchange.held_bytes = size

    def _let_go(self, arriving: Exchange | RequestResponseCycle | None) -> None:
        """What was arriving will not be answered by the pipeline."""
        self._body = b""
        if isinstance(arriving, Exchange):
            self.policies.let_go(arriving)

    def address_of(self, headers: dict[bytes, bytes]) -> str:
        """The client's address."""
        told = headers.get(b"x-forwarded-for") if self._forwarded else None
        return self.address if told is None else self.gateway.proxies.client_of(self.address, told)

    # Trouble
    def _refuse_unread(self, exchange: Exchange) -> None:
        """Refuse without reading the body; nothing after it can be told from it, so the input ends here."""
        self._phase = _DEAF
        self._arriving = None
        self._received(exchange, self._now)
        raise _AnsweredAndClosing

    def _input_failed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if self._phase is _DEAF or isinstance(cause, _AnsweredAndClosing):
            self._phase = _DEAF
            return
        if not isinstance(cause, Refusal):
            cause = InvalidHeader("The request is not valid HTTP/1.1.", code="invalid_http")
        self._refuse_input(cause)

    def _refuse_input(self, refusal: Refusal) -> None:
        """Refuse what arrives. Where the application has it already, it is told that its client has gone."""
        arriving, self._arriving = self._arriving, None
        self._let_go(arriving)
        if isinstance(arriving, RequestResponseCycle):
            self.flow.resume_reading()
            if arriving.response_started:  # one answer is enough
                self._phase, self._since = _DEAF, self._now
                arriving.keep_alive = False
                if arriving.response_complete:
                    self._close_gently()
                return
            self._withdraw(arriving)
        self._answer_raw(refusal)

    def _bound_unseen(self) -> None:
        """Bound what the parser holds without telling: a header that has no end yet, chunk extensions, trailers."""
        if self._told:
            self._told = False
            self._unseen_bytes = 0
            return
        self._unseen_bytes += self._fed
        if self._unseen_bytes > self.limits.max_header_bytes + self.limits.max_url_bytes:
            self._answer_raw(HeadersTooLarge(f"The headers exceed {self.limits.max_header_bytes} bytes."))

    def _arrived_too_slowly(self) -> None:
        if self.current is not None and self.current is not self._arriving:
            self._outbox.flush()
            self.transport.close()
            return
        self._refuse_input(RequestTimeout("The request took too long to arrive."))
