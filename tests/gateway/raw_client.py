"""A client on bare sockets: sends exactly the bytes it is told to, tells exactly what came and how it ended.

    async with connect(url) as raw:
        await raw.send(b"POST /v1/completions HTTP/1.1\\r\\n...")
        answer = await raw.read_response()
        assert (answer.status, answer.ended) == (200, "complete")

Reading happens only when asked for, so that a client that does not read is one that does not call `read...`;
`connect(url, receive_buffer_bytes=4096)` keeps the kernel from reading in its place.
"""

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import h11

Ending = Literal["complete", "eof", "reset", "open"]


@dataclass
class Response:
    """One answer; `ended` tells whether it was whole.

    complete · eof or reset: the connection ended within it, or before it · open: not read to its end
    """

    status: int = 0
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)  # as the HTTP chunks came
    interim: list[int] = field(default_factory=list)  # the 1xx before it
    ended: Ending = "open"

    def header(self, name: str) -> str | None:
        """The one value of a header, None where it is absent; several are a failure of the test."""
        values = self.all_headers(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    def all_headers(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list["Event"]:
        return parse_events(self.body)


class RawConnection:
    """One TCP or Unix connection; see the module's text. No wait is longer than `timeout_s`: TimeoutError."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self.sock = sock
        self.timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._rest = b""  # received, but belonging to the next answer
        self._ended: Ending = "open"
        self._parser: h11.Connection | None = None

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(self.timeout_s):
            await self._loop.sock_sendall(self.sock, data)

    async def send_pieces(self, data: bytes, size: int = 1, pause_s: float = 0.0) -> None:
        """Send in pieces of `size` bytes, each a TCP write of its own."""
        for at in range(0, len(data), size):
            await self.send(data[at : at + size])
            await asyncio.sleep(pause_s)

    async def request(self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        """Send an ordinary request; a body that is not bytes goes as JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"host": "test", "content-type": "application/json", "content-length": str(len(data))}
        lines = [f"{name}: {value}\r\n" for name, value in (fields | (headers or {})).items()]
        await self.send(f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1") + data)

    async def read_response(self, method: str = "GET") -> Response:
        """Read one whole answer (to a `method`), or what there is of it when the connection ends."""
        response = await self.read_head(method)
        async for _ in self.blocks(response):
            pass
        return response

    async def read_head(self, method: str = "GET") -> Response:
        """Read an answer's head; its body then comes by `blocks` or `events`."""
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 28)
        self._parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._parser.send(h11.EndOfMessage())
        if self._rest:
            self._parser.receive_data(self._rest)
            self._rest = b""
        response = Response()
        while True:
            event = await self._next_event()
            if event is None:
                response.ended = self._ended
                return response
            if isinstance(event, h11.InformationalResponse):
                response.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                response.status, response.reason = event.status_code, event.reason.decode("latin-1")
                response.headers = [(k.decode(), v.decode("latin-1")) for k, v in event.headers]
                return response

    async def blocks(self, response: Response) -> AsyncIterator[bytes]:
        """The body as it arrives; it is collected in `response` too."""
        pieces: list[bytes] = []
        chunk = b""
        try:
            while response.status and response.ended == "open":
                event = await self._next_event()
                if isinstance(event, h11.Data):
                    data = bytes(event.data)
                    pieces.append(data)
                    chunk += data
                    if event.chunk_end:
                        response.chunks.append(chunk)
                        chunk = b""
                    yield data
                else:
                    response.ended = "complete" if event is not None else self._ended
                    self._keep_rest()
        finally:
            response.body += b"".join(pieces)

    async def events(self, response: Response) -> AsyncIterator["Event"]:
        """The body's server-sent events, each as soon as it is whole."""
        rest = b""
        async for block in self.blocks(response):
            *whole, rest = re.split(rb"(?<=\n\n)|(?<=\n\r\n)", rest + block)
            for text in whole:
                for event in parse_events(text):
                    yield event

    async def read_until_end(self) -> tuple[bytes, Ending]:
        """All bytes until the connection ends, and how it did."""
        pieces = [self._rest]
        self._rest = b""
        while data := await self.read_some():
            pieces.append(data)
        return b"".join(pieces), self._ended

    async def read_some(self, size: int = 65536) -> bytes:
        """Some bytes; none once the connection has ended."""
        try:
            async with asyncio.timeout(self.timeout_s):
                data = await self._loop.sock_recv(self.sock, size)
        except (ConnectionResetError, BrokenPipeError):
            self._ended = "reset"
            return b""
        if not data:
            self._ended = "eof"
        return data

    async def is_silent(self, for_s: float = 0.1) -> bool:
        """Whether nothing comes, not even an end, for so long."""
        try:
            async with asyncio.timeout(for_s):
                self._rest += await self.read_some()
        except TimeoutError:
            return True
        return False

    def half_close(self) -> None:
        """Send FIN, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.sock.close()

    async def _next_event(self) -> Any:
        """The parser's next event; None when the connection has ended within the answer."""
        assert self._parser is not None
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                if self._ended == "open":
                    raise  # what came is not HTTP
                return None
            if isinstance(event, h11.ConnectionClosed):
                return None
            if event is not h11.NEED_DATA:
                return event
            data = await self.read_some()
            if not data and self._ended == "reset":
                return None
            self._parser.receive_data(data)

    def _keep_rest(self) -> None:
        assert self._parser is not None
        self._rest = self._parser.trailing_data[0]


@asynccontextmanager
async def connect(
    url: str, *, receive_buffer_bytes: int | None = None, timeout_s: float = 30.0
) -> AsyncIterator[RawConnection]:
    """Connect to `http://host:port` or `unix:///path`."""
    parts = urlsplit(url)
    family = socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        address: Any = parts.path
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address = (parts.hostname, parts.port)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, address)
        yield RawConnection(sock, timeout_s)
    finally:
        sock.close()


async def exchange(url: str, data: bytes, *, half_close: bool = False) -> tuple[bytes, Ending]:
    """Send the bytes on a new connection; return all that comes until it ends, and how it ended."""
    async with connect(url) as raw:
        await raw.send(data)
        if half_close:
            raw.half_close()
        return await raw.read_until_end()


async def fetch(url: str, method: str, target: str, body: Any = None, **headers: str) -> Response:
    """One ordinary request on a connection of its own; `x_api_key="k"` is the header `x-api-key: k`."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with connect(url) as raw:
        await raw.request(method, target, body, fields)
        return await raw.read_response(method)


# Server-sent events, read as the HTML standard says.


@dataclass(frozen=True)
class Event:
    """One event; a block of nothing but comments is one without `data`."""

    data: str | None = None
    event: str | None = None
    id: str | None = None
    comments: tuple[str, ...] = ()
    whole: bool = True  # False: the stream ended before the event's empty line

    def json(self) -> Any:
        assert self.data is not None
        return json.loads(self.data)


def parse_events(stream: bytes) -> list[Event]:
    """Every event of a stream. Raises UnicodeDecodeError for what is not UTF-8, as a strict client would."""
    text = stream.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    *blocks, rest = re.split(r"(?<=\n)\n|^\n", text)
    events = [_event(block, whole=True) for block in blocks if block]
    if rest:
        events.append(_event(rest, whole=False))
    return events


def _event(block: str, *, whole: bool) -> Event:
    data: list[str] = []
    fields: dict[str, str] = {}
    comments: list[str] = []
    for line in block.rstrip("\n").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            comments.append(value)
        elif name == "data":
            data.append(value)
        else:
            fields[name] = value
    text = "\n".join(data) if data else None
    return Event(text, fields.get("event"), fields.get("id"), tuple(comments), whole)


def text_of(events: list[Event]) -> str:
    """What a stream said, whichever of the four APIs it is of."""
    said = ""
    for event in events:
        if event.data is None or event.data == "[DONE]" or not event.whole:
            continue
        frame = event.json()
        for choice in frame.get("choices") or ():
            said += choice.get("delta", {}).get("content") or choice.get("text") or ""
        if frame.get("type") == "content_block_delta":
            said += frame["delta"].get("text", "")
        elif frame.get("type") == "response.output_text.delta":
            said += frame["delta"]
    return said


def token_numbers(text: str) -> list[int]:
    """The numbers of a fake engine's tokens: contiguous from 0, or something was lost or said twice."""
    return [int(number) for number in re.findall(r" t([0-9]+)", text)]
