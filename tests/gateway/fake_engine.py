"""A scriptable stand-in for a vLLM 0.32 engine, with a ledger of all it was asked and did.

It runs in the test's own event loop, on its own small and strict HTTP/1.1 server: what a gateway sends that
is not plain HTTP/1.1 lands in `engine.violations`. Generating is sleeping: token k is the text " tk", so that
a gap or a repetition shows, and capacity is known by construction (`slots` and `token_delay_s`).

    async with FakeEngine() as engine:
        engine.script(Behaviour(faults=[Fault("mid_event", "reset", after=3)]))  # the next request only
        ...  # ask `engine.url`
        await engine.wait_for(lambda e: e.running == 0)
        assert engine.requests[0].outcome == "cut"

What an answer consists of, [sent], and where a `Fault` can strike:

    stream  head, mid_head [head]; for each k: token k, mid_event k, mid_chunk k [event k];
            token n [finish, usage, DONE]; end [last chunk]
    whole   token 0 ... token n; head, mid_head [head]; mid_event, mid_chunk [body]; end [last chunk, if any]
"""

import asyncio
import base64
import itertools
import json
import re
import socket
import ssl
import struct
import time
import uuid
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, cast

Where = Literal["head", "mid_head", "token", "mid_event", "mid_chunk", "end"]
How = Literal["close", "reset", "finish", "hang"]
Outcome = Literal["running", "finished", "aborted", "cut", "stopped"]

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")
MONITORING = ("/health", "/v1/models", "/metrics", "/version", "/ping", "/load")


@dataclass(frozen=True)
class Fault:
    """At one point of an answer, do one thing.

    where  head       before its first byte
           mid_head   after half of the head
           token      after `after` whole tokens
           mid_event  after half of token `after`'s event (of the body, for a whole answer), as a whole chunk
           mid_chunk  the same, but within a chunk announced longer
           end        after all of it but the last chunk
    how    close: FIN · reset: RST · finish: end the HTTP message properly, though early (token and mid_event)
           hang: nothing more until the client goes · an asyncio.Event: wait for it, then carry on
    """

    where: Where
    how: How | asyncio.Event = "close"
    after: int = 0

    def __post_init__(self) -> None:
        if self.how == "finish" and self.where not in ("token", "mid_event"):
            raise ValueError(f"a message cannot be finished properly at {self.where}")


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How one request is treated; without arguments, as a healthy engine would."""

    # What is generated
    tokens: int | None = None  # None: as many as asked for, at most the engine's `tokens`
    prompt_tokens: int | None = None  # told in usage; None: the words of the prompt
    finish_reason: str | None = None  # "abort" is what an engine says that gave up
    done: bool = True  # False: no [DONE] (no `message_stop`, no `response.completed`)
    usage: bool = True  # False: none, though asked for
    error_after: int | None = None  # vLLM's error inside the stream, after so many tokens
    insert: Mapping[int, bytes] = field(default_factory=dict)  # sent as it is, before the event of that token
    # What is answered instead
    status: int = 200  # from 400 on, and without a body: vLLM's error of that status
    body: Any = None  # an object (sent as JSON), a string or bytes
    body_bytes: int | None = None  # so many bytes, never held at once
    raw: bytes | None = None  # the whole answer, head included, verbatim; then the connection closes
    # How it is sent
    head_delay_s: float = 0.0
    token_delay_s: float | None = None  # None: the engine's
    faults: Sequence[Fault] = ()
    content_type: str | None = None
    headers: Sequence[tuple[str, str]] = ()  # added to the head
    interim: Sequence[bytes] = ()  # whole 1xx answers, sent before the head
    framing: Literal["length", "chunked", "close"] | None = None  # None: chunked for streams, else length
    trailers: Sequence[bytes] = ()  # lines after the last chunk
    piece_bytes: int | None = None  # at most so many bytes a TCP write
    # What becomes of the connection. say_close: `connection: close`, said and done; drop: closed unannounced;
    # drop_on_next: reset at the next request's first byte, the race every keep-alive client must survive
    then: Literal["keep", "say_close", "drop", "drop_on_next"] = "keep"


def invalid_utf8(after: int = 1) -> Behaviour:
    return Behaviour(insert={after: b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xc3("}}]}\n\n'})


def huge_event(size: int, after: int = 1) -> Behaviour:
    return Behaviour(insert={after: b'data: {"choices":[],"x":"' + b"x" * size + b'"}\n\n'})


def header_bomb(size: int, count: int = 1) -> Behaviour:
    return Behaviour(headers=[(f"x-bomb-{number}", "b" * size) for number in range(count)])


@dataclass(eq=False)
class Record:
    """One request as it arrived, and what became of it."""

    connection: int
    method: str
    target: str
    header_list: list[tuple[str, str]]
    raw_body: bytes
    started: float
    tokens_sent: int = 0
    outcome: Outcome = "running"
    ended: float | None = None

    def __post_init__(self) -> None:
        self.path = self.target.partition("?")[0]
        self.headers = {name.lower(): value for name, value in self.header_list}
        try:
            self.body: Any = json.loads(self.raw_body) if self.raw_body else None
        except ValueError:
            self.body = None

    def __repr__(self) -> str:
        what = f"{self.method} {self.target} on connection {self.connection}"
        return f"<{what}: {self.outcome}, {self.tokens_sent} tokens>"


class Violation(Exception):
    """A request that a strict HTTP/1.1 server does not take."""


class _Struck(Exception):
    """A fault ended the answer."""


class FakeEngine:
    """See the module's text. Tests read `requests`, `running`, `waiting`, `connections` and `violations`."""

    def __init__(
        self,
        *,
        models: Sequence[str] = ("fake-model",),
        max_model_len: int = 4096,
        tokens: int = 8,
        slots: int | None = None,
        token_delay_s: float = 0.0,
        force_usage: bool = False,
        tagged: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: str | None = None,
        tls: ssl.SSLContext | None = None,
        send_buffer_bytes: int | None = None,
    ) -> None:
        self.models = list(models)
        self.max_model_len = max_model_len
        self.tokens = tokens
        self.token_delay_s = token_delay_s
        self.force_usage = force_usage  # vLLM's --enable-force-include-usage: on every event, as there
        self.tagged = tagged
        self.host = host
        self.uds = uds
        self.port = port
        self.on_connect: Literal["serve", "close", "reset", "ignore"] = "serve"
        self.default: Behaviour | Callable[[Record], Behaviour] = Behaviour()
        self.requests: list[Record] = []
        self.violations: list[str] = []
        self.running = self.waiting = self.generated = self.prompt_tokens = 0
        self.accepted = 0
        self.connections: set[_Connection] = set()
        self.responses: dict[str, Any] = {}
        self.moving = asyncio.Event()  # cleared: hung as a stopped process is, though its sockets accept
        self.moving.set()
        self._tls = tls
        self._send_buffer_bytes = send_buffer_bytes
        self._slots = asyncio.Semaphore(slots) if slots else None
        self._script: deque[Behaviour | Callable[[Record], Behaviour]] = deque()
        self._standing: dict[str, Behaviour | Callable[[Record], Behaviour]] = {}
        self._waiters: list[tuple[Callable[[FakeEngine], Any], asyncio.Future[None]]] = []
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return (
            f"<FakeEngine {self.url} running={self.running} waiting={self.waiting} "
            f"connections={len(self.connections)} requests={self.requests} violations={self.violations}>"
        )

    @property
    def url(self) -> str:
        if self.uds:
            return f"unix://{self.uds}"
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    async def __aenter__(self) -> "FakeEngine":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a `stop`, at the same address again."""
        loop = asyncio.get_running_loop()
        if self.uds:
            self._server = await loop.create_unix_server(lambda: _Connection(self), self.uds, ssl=self._tls)
            return
        listening = socket.create_server((self.host, self.port), backlog=1024)
        if self._send_buffer_bytes:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        self._server = await loop.create_server(lambda: _Connection(self), sock=listening, ssl=self._tls)
        self.port = listening.getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut all connections, as a killed engine's kernel would."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.stop()
        await self.wait_for(lambda e: not e.connections and all(r.outcome != "running" for r in e.requests))
        self._server = None

    def script(self, *behaviours: Behaviour | Callable[[Record], Behaviour]) -> None:
        """Treat the next requests so, one behaviour each, monitoring aside; those after them by `default`."""
        self._script.extend(behaviours)

    def on(self, path: str, behaviour: Behaviour | Callable[[Record], Behaviour] | None) -> None:
        """Treat every request to this path so, from now on; None ends it."""
        self._standing.pop(path, None)
        if behaviour is not None:
            self._standing[path] = behaviour

    async def wait_for(
        self,
        predicate: Callable[["FakeEngine"], Any],
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> None:
        """Return once it holds; asked whenever the engine's state changes."""
        if predicate(self):
            return
        waiter = (predicate, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter[1]
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {self!r}") from None
        finally:
            self._waiters.remove(waiter)

    @property
    def tokens_sent(self) -> int:
        """Tokens of the newest POST, 0 before there is one; `requests[-1]` may be a health check that came since."""
        return next((record.tokens_sent for record in reversed(self.requests) if record.method == "POST"), 0)

    def calls(self, path: str) -> list[Record]:
        """The requests to one path."""
        return [record for record in self.requests if record.path == path]

    def drop_idle(self) -> None:
        """Close every connection that is not answering now, as an engine's keep-alive timeout would."""
        for connection in list(self.connections):
            if connection.task is None:
                connection.end("close")

    def changed(self) -> None:
        for predicate, future in self._waiters:
            if not future.done() and predicate(self):
                future.set_result(None)

    def behaviour_for(self, record: Record) -> Behaviour:
        chosen = self._standing.get(record.path)
        if chosen is None and self._script and record.path not in MONITORING:
            chosen = self._script.popleft()
        if chosen is None:
            chosen = self.default if record.path not in MONITORING else Behaviour()
        return chosen(record) if callable(chosen) else chosen

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        if self._slots is not None:
            self.waiting += 1
            self.changed()
            try:
                await self._slots.acquire()
            finally:
                self.waiting -= 1
                self.changed()
        self.running += 1
        self.changed()
        try:
            yield
        finally:
            self.running -= 1
            if self._slots is not None:
                self._slots.release()

    def metrics(self) -> str:
        labels = f'{{engine="0",model_name="{self.models[0]}"}}'
        done = sum(record.outcome == "finished" for record in self.requests if record.path in GENERATING)
        figures = (
            ("num_requests_running", "gauge", "", self.running),
            ("num_requests_waiting", "gauge", "", self.waiting),
            ("kv_cache_usage_perc", "gauge", "", min(self.running / 100, 1)),
            ("prompt_tokens_total", "counter", "", self.prompt_tokens),
            ("generation_tokens_total", "counter", "", self.generated),
            ("request_success_total", "counter", "", done),
            ("iteration_tokens_total", "histogram", "_sum", self.generated),
            ("iteration_tokens_total", "", "_count", self.generated),
        )
        return "".join(
            (f"# HELP vllm:{name} .\n# TYPE vllm:{name} {kind}\n" if kind else "")
            + f"vllm:{name}{end}{labels} {value:.1f}\n"
            for name, kind, end, value in figures
        )


class _Connection(asyncio.Protocol):
    """Answers requests in order, one at a time; when the client goes away, its answer is cancelled."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.task: asyncio.Task[None] | None = None
        self.ended_by: Outcome = "aborted"  # what a running request becomes when the connection is lost
        self.drop_on_next = False
        self._buffer = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's over TLS is one in deed only
        self.transport.set_write_buffer_limits(high=4096)
        self.engine.accepted += 1
        self.number = self.engine.accepted
        self.engine.connections.add(self)
        self.engine.changed()
        if self.engine.on_connect in ("close", "reset"):
            self.end("close" if self.engine.on_connect == "close" else "reset")

    def data_received(self, data: bytes) -> None:
        if self.drop_on_next:
            self.end("reset")
        if self.engine.on_connect == "serve":
            self._buffer += data
            self._next()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self.engine.connections.discard(self)
        if self.task is not None:
            self.task.cancel()
        self.engine.changed()

    def stop(self) -> None:
        self.ended_by = "stopped"
        self.transport.abort()

    def end(self, how: Literal["close", "reset"]) -> None:
        if self.task is not None:
            self.ended_by = "cut"
        if how == "close":
            self.transport.close()
            return
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    async def write(self, data: bytes, piece_bytes: int | None = None) -> None:
        size = piece_bytes or len(data) or 1
        for at in range(0, len(data), size):
            self.transport.write(data[at : at + size])
            if piece_bytes:
                await asyncio.sleep(0)  # let the other end, when in this loop, see this piece alone
            await self._writable.wait()

    def _next(self) -> None:
        if self.task is not None or self.transport.is_closing():
            return
        engine = self.engine
        try:
            parsed = _parse_request(bytes(self._buffer))
        except Violation as violation:
            engine.violations.append(f"{violation} in {bytes(self._buffer[:200])!r}")
            engine.changed()
            self.end("close")
            return
        if parsed is None:
            return
        (method, target, headers, body), consumed = parsed
        del self._buffer[:consumed]
        record = Record(self.number, method, target, headers, body, asyncio.get_running_loop().time())
        engine.requests.append(record)
        engine.changed()
        self.behaviour = engine.behaviour_for(record)
        self.task = asyncio.create_task(self._serve(record))
        self.task.add_done_callback(lambda task: self._served(record, task))

    async def _serve(self, record: Record) -> None:
        answer = _Answer(self, record, self.behaviour)
        if record.method == "POST" and record.path in GENERATING:
            async with self.engine.slot():
                await answer.send()
        else:
            await answer.send()

    def _served(self, record: Record, task: asyncio.Task[None]) -> None:
        self.task = None
        record.ended = asyncio.get_running_loop().time()
        failure = None if task.cancelled() else task.exception()
        if task.cancelled():
            record.outcome = self.ended_by
        elif isinstance(failure, _Struck):
            record.outcome = "cut"
        elif failure is not None:
            record.outcome = "cut"
            self.engine.violations.append(f"the fake engine itself failed on {record!r}: {failure!r}")
            self.end("close")
        else:
            record.outcome = "finished"
        self._after(record)
        self.engine.changed()

    def _after(self, record: Record) -> None:
        if self.behaviour.then == "drop_on_next":
            self.drop_on_next = True
        elif self.behaviour.then != "keep" or record.headers.get("connection", "").lower() == "close":
            self.end("close")
        self._next()


class _Answer:
    """Sends one answer, striking where the behaviour says so."""

    def __init__(self, connection: _Connection, record: Record, behaviour: Behaviour) -> None:
        self.connection, self.record, self.behaviour = connection, record, behaviour
        self.engine = connection.engine
        self.framing: str = behaviour.framing or "length"
        self.begun = False

    async def send(self) -> None:
        behaviour, record, engine = self.behaviour, self.record, self.engine
        await engine.moving.wait()
        if behaviour.raw is not None:
            await self.put(behaviour.raw)
            self.connection.end("close")
            return
        if behaviour.head_delay_s:
            await asyncio.sleep(behaviour.head_delay_s)
        if behaviour.body is not None or behaviour.body_bytes is not None:
            await self.whole(behaviour.body)
        elif behaviour.status >= 400:
            await self.whole(_in_style_of(record.path, _error("Scripted failure.", behaviour.status)))
        elif (ready := _ready_answer(engine, record)) is not None:
            await self.whole(ready[1], ready[0])
        else:
            speech = _SPEECH[record.path](engine, record, behaviour)
            engine.prompt_tokens += speech.prompt_tokens
            if record.body.get("stream"):
                await self.stream(speech)
            else:
                for number in range(speech.tokens):
                    await self.generate(speech, number)
                await self.strike("token", speech.tokens)
                await self.whole(speech.whole())

    async def generate(self, speech: "_Speech", number: int) -> None:
        delay = self.behaviour.token_delay_s
        delay = self.engine.token_delay_s if delay is None else delay
        if delay:
            await asyncio.sleep(delay)
        await self.engine.moving.wait()
        await self.strike("token", number)
        self.engine.generated += 1
        if not speech.stream:
            self.record.tokens_sent += 1

    async def stream(self, speech: "_Speech") -> None:
        behaviour = self.behaviour
        self.framing = behaviour.framing or "chunked"
        await self.head(behaviour.status, "text/event-stream; charset=utf-8")
        if speech.opens_at_once:
            await self.events(speech.opening())
        for number in range(speech.tokens):
            if number == behaviour.error_after:
                break
            await self.generate(speech, number)
            if number == 0 and not speech.opens_at_once:
                await self.events(speech.opening())
            await self.chunk(behaviour.insert.get(number, b""))
            for event in speech.token(number):
                await self.token_event(event, number)
            self.record.tokens_sent += 1
            self.engine.changed()
        failed = behaviour.error_after is not None
        if not failed:
            await self.strike("token", speech.tokens)
            await self.chunk(behaviour.insert.get(speech.tokens, b""))
        await self.events(speech.error() if failed else speech.closing())
        if behaviour.done and (speech.done_after_error or not failed):
            await self.events(speech.done())
        await self.finish()

    async def token_event(self, event: bytes, number: int) -> None:
        struck = {fault.where for fault in self.behaviour.faults if fault.after == number}
        if "mid_chunk" in struck:
            framed = self.framed(event)
            await self.put(framed[: len(framed) // 2])
            await self.strike("mid_chunk", number)
            await self.put(framed[len(framed) // 2 :])
        elif "mid_event" in struck:
            await self.chunk(event[: len(event) // 2])
            await self.strike("mid_event", number)
            await self.chunk(event[len(event) // 2 :])
        else:
            await self.chunk(event)

    async def whole(self, body: Any, status: int | None = None) -> None:
        behaviour = self.behaviour
        kind = "text/html; charset=utf-8" if isinstance(body, (str, bytes)) else "application/json"
        if self.record.path == "/metrics":
            kind = "text/plain; version=0.0.4; charset=utf-8"
        if behaviour.body_bytes is not None:
            await self.head(behaviour.status, "application/json", behaviour.body_bytes)
            for left in range(behaviour.body_bytes, 0, -65536):
                await self.chunk(b"x" * min(left, 65536))
        else:
            data = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else _json(body)
            await self.head(status or behaviour.status, kind, len(data))
            await self.token_event(data, 0)
        await self.finish()

    async def head(self, status: int, content_type: str, length: int = 0) -> None:
        behaviour = self.behaviour
        await self.strike("head")
        for interim in behaviour.interim:
            await self.put(interim)
        phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else ""
        lines = [f"HTTP/1.1 {status} {phrase}", "date: Sat, 01 Jan 2000 00:00:00 GMT", "server: uvicorn"]
        if self.framing == "length":
            lines.append(f"content-length: {length}")
        lines.append(f"content-type: {behaviour.content_type or content_type}")
        if self.framing == "chunked":
            lines.append("transfer-encoding: chunked")
        if self.framing == "close" or behaviour.then == "say_close":
            lines.append("connection: close")
        lines += [f"{name}: {value}" for name, value in behaviour.headers]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if any(fault.where == "mid_head" for fault in behaviour.faults):
            await self.put(head[: len(head) // 2])
            await self.strike("mid_head")
            head = head[len(head) // 2 :]
        await self.put(head)
        self.begun = True

    async def finish(self) -> None:
        await self.strike("end")
        if self.framing == "chunked":
            await self.put(b"0\r\n" + b"".join(line + b"\r\n" for line in self.behaviour.trailers) + b"\r\n")
        elif self.framing == "close":
            self.connection.end("close")

    async def strike(self, where: Where, after: int = 0) -> None:
        for fault in self.behaviour.faults:
            if fault.where != where or fault.after != after:
                continue
            if isinstance(fault.how, asyncio.Event):
                await fault.how.wait()
            elif fault.how == "hang":
                await asyncio.get_running_loop().create_future()
            elif fault.how == "finish" and self.begun and self.framing == "chunked":
                await self.put(b"0\r\n\r\n")
                raise _Struck
            else:
                self.connection.end("reset" if fault.how == "reset" else "close")
                raise _Struck

    async def events(self, events: Sequence[bytes]) -> None:
        for event in events:
            await self.chunk(event)
            if event is _CRASH:
                self.connection.end("close")
                raise _Struck

    async def chunk(self, data: bytes) -> None:
        if data:
            await self.put(self.framed(data))

    async def put(self, data: bytes) -> None:
        await self.connection.write(data, self.behaviour.piece_bytes)

    def framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self.framing == "chunked" else data


# What an engine says, API by API, in vLLM 0.32's shapes.

_ERROR_TYPES = {404: "NotFoundError", 422: "UnprocessableEntityError", 503: "ServiceUnavailableError"}
_FIRST_ID = 1_000_000  # of the tokens of an answer; those of prompts are below
_CRASH = b""  # in place of an event: vLLM's generator raised, and uvicorn closed the connection


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _sse(value: Any, event: str | None = None) -> bytes:
    return (f"event: {event}\n" if event else "").encode() + b"data: " + _json(value) + b"\n\n"


def tag_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What marks the answer to these messages where the engine is `tagged`."""
    return _tag(_ids(messages))


def _tag(prompt_ids: Sequence[int]) -> str:
    return f"{zlib.crc32(json.dumps(list(prompt_ids)).encode()):08x}"


def _ids(prompt: Any) -> list[int]:
    """Token ids of a prompt: one a word."""
    if isinstance(prompt, str):
        return [zlib.crc32(word.encode()) % _FIRST_ID for word in prompt.split()]
    if isinstance(prompt, Mapping):
        return _ids(prompt.get("content") or prompt.get("text") or "")
    if isinstance(prompt, Sequence):
        return [one for part in prompt for one in ([part] if isinstance(part, int) else _ids(part))]
    return []


def _prompt(body: dict[str, Any]) -> tuple[list[int], int]:
    """The prompt's token ids, less what was generated already, and the number of the token to go on with."""
    prompt = body.get("messages") or body.get("prompt") or body.get("input") or ""
    text = prompt if isinstance(prompt, str) else ""
    if body.get("continue_final_message"):
        *prompt, last = prompt
        text = last["content"]
    if (said := re.search(r"(?: (?:t|[0-9a-f]{8}\.)\d+)+$", text)) is not None:
        number = int(re.split(r"[t.]", said[0])[-1])
        return _ids(prompt if prompt is not body.get("prompt") else text[: said.start()]), number + 1
    ids = _ids(prompt)
    first = max((one - _FIRST_ID + 1 for one in ids[-1:]), default=0)
    return [one for one in ids if one < _FIRST_ID], max(first, 0)


def _words(value: Any) -> int:
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, dict):
        return sum(_words(value.get(key)) for key in ("content", "text"))
    if isinstance(value, list):
        return sum(1 if isinstance(item, int) else _words(item) for item in value)
    return 0


def _error(message: str, status: int, param: str | None = None, kind: str | None = None) -> dict[str, Any]:
    kind = kind or _ERROR_TYPES.get(status) or ("InternalServerError" if status >= 500 else "BadRequestError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _in_style_of(path: str, error: dict[str, Any]) -> dict[str, Any]:
    if not path.startswith("/v1/messages"):
        return error
    return {"type": "error", "error": {key: error["error"][key] for key in ("type", "message")}}


class _Speech:
    """What one generation says: as events (`opening`, `token`, `closing`, `done` or `error`) or `whole`."""

    opens_at_once = False  # before the first token is there
    done_after_error = True
    id_prefix = "chatcmpl-"

    def __init__(self, engine: FakeEngine, record: Record, behaviour: Behaviour) -> None:
        body = self.body = record.body
        limits = (body.get(key) for key in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
        limit = next((limit for limit in limits if isinstance(limit, int)), 1_000_000)
        self.prompt_ids, self.first = _prompt(body)
        left = max(engine.tokens - self.first, 0)
        self.tokens = min(limit, left) if behaviour.tokens is None else behaviour.tokens
        self.mark = f"{_tag(self.prompt_ids)}." if engine.tagged else "t"
        self.ids = body.get("return_token_ids") is True
        self.finish_reason = behaviour.finish_reason or ("length" if self.tokens == limit else "stop")
        words = _words([body.get(key) for key in ("messages", "prompt", "input", "system", "instructions")])
        self.prompt_tokens = max(words, 1) if behaviour.prompt_tokens is None else behaviour.prompt_tokens
        self.engine = engine
        self.model = body.get("model") or engine.models[0]
        self.stream = bool(body.get("stream"))
        self.n = body.get("n") or 1
        self.id = self.id_prefix + (record.headers.get("x-request-id") or uuid.uuid4().hex)
        self.created = int(time.time())
        options = body.get("stream_options") or {}
        asked = engine.force_usage or bool(options.get("include_usage"))
        self.has_usage = behaviour.usage
        self.include_usage = behaviour.usage and asked
        self.continuous = self.include_usage and (engine.force_usage or options.get("continuous_usage_stats"))

    @property
    def text(self) -> str:
        return "".join(self.word(number) for number in range(self.tokens))

    def word(self, number: int) -> str:
        return f" {self.mark}{self.first + number}"

    def usage(self, tokens: int) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "completion_tokens": tokens,
        }

    def opening(self) -> list[bytes]:
        return []

    def token(self, number: int) -> list[bytes]:
        raise NotImplementedError

    def closing(self) -> list[bytes]:
        raise NotImplementedError

    def done(self) -> list[bytes]:
        return [b"data: [DONE]\n\n"]

    def error(self) -> list[bytes]:
        return [b"data: " + json.dumps(_error("Internal server error", 500)).encode() + b"\n\n"]

    def whole(self) -> Any:
        raise NotImplementedError


class _Chat(_Speech):
    kind, whole_kind = "chat.completion.chunk", "chat.completion"

    def opening(self) -> list[bytes]:
        choice = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        nothing = {"prompt_token_ids": self.prompt_ids if self.ids else None, "prompt_text": None}
        return [self._chunk({"index": index} | choice, 0, nothing) for index in range(self.n)]

    def token(self, number: int) -> list[bytes]:
        ids = [_FIRST_ID + self.first + number] if self.ids else None
        return [self._chunk(self.choice(i, self.word(number)) | {"token_ids": ids}, number + 1) for i in range(self.n)]

    def closing(self) -> list[bytes]:
        ids: list[int] | None = [] if self.ids else None
        ends = [self.choice(i, "", self.finish_reason) | {"token_ids": ids} for i in range(self.n)]
        events = [self._chunk(end, self.tokens) for end in ends]
        if self.include_usage:
            events.append(_sse(self._frame([]) | {"usage": self.usage(self.tokens * self.n)}))
        return events

    def whole(self) -> Any:
        usage = self.usage(self.tokens * self.n) | {
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }
        answer = {
            "id": self.id,
            "object": self.whole_kind,
            "created": self.created,
            "model": self.model,
            "choices": [self.whole_choice(i) for i in range(self.n)],
            "service_tier": None,
            "system_fingerprint": None,
            **dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text", "metrics")),
            **dict.fromkeys(("kv_transfer_params", "ec_transfer_params")),
        }
        return answer | ({"usage": usage} if self.has_usage else {})

    def choice(self, index: int, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": {"content": text}, "logprobs": None}
        ending = {"stop_reason": None} if finish_reason else {}
        return choice | {"finish_reason": finish_reason} | ending | {"token_ids": None}

    def whole_choice(self, index: int) -> dict[str, Any]:
        empty = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
        message = {"role": "assistant", "content": self.text} | empty
        choice = {"index": index, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return choice | dict.fromkeys(("stop_reason", "token_ids", "routed_experts"))

    def _frame(self, choices: list[Any]) -> dict[str, Any]:
        frame = {"id": self.id, "object": self.kind, "created": self.created, "model": self.model}
        return frame | {"choices": choices}

    def _chunk(self, choice: dict[str, Any], tokens: int, extra: dict[str, Any] | None = None) -> bytes:
        usage = {"usage": self.usage(tokens) | {"completion_tokens_details": None}} if self.continuous else {}
        return _sse(self._frame([choice]) | (extra or {}) | usage)


class _Completion(_Chat):
    kind, whole_kind, id_prefix = "text_completion", "text_completion", "cmpl-"

    def opening(self) -> list[bytes]:
        return []

    def token(self, number: int) -> list[bytes]:
        events = super().token(number)
        told = {"prompt_token_ids": self.prompt_ids} if self.ids and number == 0 else {}
        return [self._with(event, told) for event in events]

    def _with(self, event: bytes, told: dict[str, Any]) -> bytes:
        chunk = json.loads(event.removeprefix(b"data: "))
        chunk["choices"][0] |= told
        return _sse(chunk)

    def choice(self, index: int, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return choice | {"stop_reason": None, "prompt_token_ids": None, "token_ids": None}

    def whole_choice(self, index: int) -> dict[str, Any]:
        choice = self.choice(index, self.text, self.finish_reason)
        return choice | dict.fromkeys(("prompt_logprobs", "routed_experts"))


class _Messages(_Speech):
    done_after_error = False

    def usage(self, tokens: int) -> dict[str, Any]:
        return {"input_tokens": self.prompt_tokens, "output_tokens": tokens}

    def opening(self) -> list[bytes]:
        message = self._message([], None, 0)
        block = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}
        return [
            _sse({"type": "message_start", "message": message}, "message_start"),
            _sse(block, "content_block_start"),
        ]

    def token(self, number: int) -> list[bytes]:
        delta = {"type": "text_delta", "text": f" t{number}"}
        return [_sse({"type": "content_block_delta", "delta": delta, "index": 0}, "content_block_delta")]

    def closing(self) -> list[bytes]:
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        last = {"type": "message_delta", "delta": delta}
        return [
            _sse({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            _sse(last | ({"usage": self.usage(self.tokens)} if self.has_usage else {}), "message_delta"),
        ]

    def done(self) -> list[bytes]:
        return [_sse({"type": "message_stop"}, "message_stop")]

    def error(self) -> list[bytes]:
        error = {"type": "internal_error", "message": "Internal server error"}
        return [_sse({"type": "error", "error": error}, "error")]

    def whole(self) -> Any:
        message = self._message([{"type": "text", "text": self.text}], self._stop_reason(), self.tokens)
        return {key: value for key, value in message.items() if value is not None}

    def _stop_reason(self) -> str | None:
        return {"length": "max_tokens", "stop": "end_turn"}.get(self.finish_reason)

    def _message(self, content: list[Any], stop_reason: str | None, tokens: int) -> dict[str, Any]:
        message = {"id": self.id, "type": "message", "role": "assistant", "content": content}
        ending = {"stop_reason": stop_reason, "stop_sequence": None}
        return message | {"model": self.model} | ending | {"usage": self.usage(tokens)}


class _Responses(_Speech):
    opens_at_once = True
    id_prefix = "resp_"

    def __init__(self, engine: FakeEngine, record: Record, behaviour: Behaviour) -> None:
        super().__init__(engine, record, behaviour)
        self._sequence = itertools.count()
        self._place = {"output_index": 0, "item_id": f"msg_{uuid.uuid4().hex}", "content_index": 0}

    def usage(self, tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0},
            "total_tokens": self.prompt_tokens + tokens,
        }

    def opening(self) -> list[bytes]:
        response, item = self._response("in_progress"), self._item([], "in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
            self._event("response.output_item.added", item=item, output_index=0),
            self._event("response.content_part.added", **self._place, part=self._part("")),
        ]

    def token(self, number: int) -> list[bytes]:
        return [self._event("response.output_text.delta", **self._place, delta=f" t{number}", logprobs=[])]

    def closing(self) -> list[bytes]:
        part = self._part(self.text)
        return [
            self._event("response.output_text.done", **self._place, text=self.text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=part),
            self._event("response.output_item.done", item=self._item([part], "completed"), output_index=0),
        ]

    def done(self) -> list[bytes]:
        return [self._event("response.completed", response=self.whole())]

    def error(self) -> list[bytes]:
        return [_CRASH]  # its error object is none of the API's events, so validating it raises

    def whole(self) -> Any:
        response = self._response("incomplete" if self.finish_reason == "length" else "completed")
        response["output"] = [self._item([self._part(self.text)], "completed")]
        response["usage"] = self.usage(self.tokens) if self.has_usage else None
        self.engine.responses[self.id] = response
        return response

    def _event(self, kind: str, **fields: Any) -> bytes:
        return _sse({"type": kind, "sequence_number": next(self._sequence), **fields}, kind)

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, content: list[Any], status: str) -> dict[str, Any]:
        item = {"id": self._place["item_id"], "type": "message", "role": "assistant"}
        return item | {"content": content, "status": status}

    def _response(self, status: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "created_at": self.created,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self.body.get("instructions"),
            "metadata": None,
            "model": self.model,
            "object": "response",
            "output": [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": self.body.get("max_output_tokens") or self.engine.tokens,
            "service_tier": "auto",
            "status": status,
            "truncation": "disabled",
            "usage": None,
        }


_SPEECH: dict[str, type[_Speech]] = {
    "/v1/chat/completions": _Chat,
    "/v1/completions": _Completion,
    "/v1/messages": _Messages,
    "/v1/responses": _Responses,
}


def _ready_answer(engine: FakeEngine, record: Record) -> tuple[int, Any] | None:
    """Status and body of an answer that takes no generation; None where tokens are to be generated."""
    method, path, body = record.method, record.path, record.body
    if method == "GET":
        return _ready_get(engine, path)
    if method != "POST":
        return 405, _error("Method Not Allowed", 405, kind="Method Not Allowed")
    if (stored := re.fullmatch(r"/v1/responses/([^/]+)/cancel", path)) is not None:
        if stored[1] not in engine.responses:
            return _no_response(stored[1])
        message = "Cannot cancel a synchronous response."
        return 400, _error(message, 400, "response_id", "invalid_request_error")
    known = (*GENERATING, "/tokenize", "/detokenize", "/v1/messages/count_tokens")
    if path not in known:
        return 404, _error("Not Found", 404, kind="Not Found")
    if record.headers.get("content-type", "").partition(";")[0].lower() != "application/json":
        message = "Unsupported Media Type: Only 'application/json' is allowed"
        return 400, _error(message, 400, kind="Bad Request")
    if not isinstance(body, dict):
        return 400, _error("JSON decode error", 400, kind="Bad Request")
    model = body.get("model") or engine.models[0]
    if model not in engine.models:
        return 404, _in_style_of(path, _error(f"The model `{model}` does not exist.", 404, "model"))
    return _ready_post(engine, path, body, model)


def _ready_get(engine: FakeEngine, path: str) -> tuple[int, Any]:
    if path == "/health":
        return 200, b""
    if path == "/metrics":
        return 200, engine.metrics()
    if path == "/v1/models":
        cards = [
            {"id": name, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": name}
            | {"parent": None, "max_model_len": engine.max_model_len, "permission": []}
            for name in engine.models
        ]
        return 200, {"object": "list", "data": cards}
    if path == "/version":
        return 200, {"version": "0.32.0"}
    if (stored := re.fullmatch(r"/v1/responses/([^/]+)", path)) is not None:
        response = engine.responses.get(stored[1])
        return (200, response) if response else _no_response(stored[1])
    return 404, _error("Not Found", 404, kind="Not Found")


def _ready_post(engine: FakeEngine, path: str, body: dict[str, Any], model: str) -> tuple[int, Any] | None:
    words = max(_words([body.get(key) for key in ("messages", "prompt", "system")]), 1)
    if path == "/tokenize":
        tokens = list(range(words))
        counts = {"count": words, "max_model_len": engine.max_model_len}
        return 200, counts | {"tokens": tokens, "token_strs": None}
    if path == "/detokenize":
        return 200, {"prompt": "".join(f" t{token}" for token in body.get("tokens", ()))}
    if path == "/v1/messages/count_tokens":
        return 200, {"input_tokens": words, "context_management": {"original_input_tokens": words}}
    if path == "/v1/embeddings":
        return 200, _embeddings(body, model)
    return None


def _embeddings(body: dict[str, Any], model: str) -> dict[str, Any]:
    texts = body["input"] if isinstance(body.get("input"), list) else [body.get("input")]
    vectors: list[Any] = [[float(number), 0.5, -0.25] for number in range(len(texts))]
    if body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack("<3f", *vector)).decode() for vector in vectors]
    words = max(_words(texts), 1)
    usage = {"prompt_tokens": words, "total_tokens": words, "completion_tokens": 0}
    usage |= {"prompt_tokens_details": None, "completion_tokens_details": None}
    data = [{"index": i, "object": "embedding", "embedding": vector} for i, vector in enumerate(vectors)]
    frame = {"id": f"embd-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
    return frame | {"model": model, "data": data, "usage": usage}


def _no_response(response_id: str) -> tuple[int, Any]:
    message = f"Response with id '{response_id}' not found."
    return 404, _error(message, 404, "response_id", "invalid_request_error")


# The strict reading of requests.

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_Request = tuple[str, str, list[tuple[str, str]], bytes]


def _parse_request(data: bytes) -> tuple[_Request, int] | None:
    """The first request in `data` and its length; None where it is not whole yet."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = data[:end].split(b"\r\n")
    request_line = re.fullmatch(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1", first)
    if request_line is None:
        raise Violation("bad request line")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise Violation(f"bad header line {line[:80]!r}")
        headers.append((name.decode(), value.strip(b" \t").decode("latin-1")))
    if [name.lower() for name, _ in headers].count("host") != 1:
        raise Violation("not one host header")
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    codings = [value for name, value in headers if name.lower() == "transfer-encoding"]
    if (lengths and codings) or len(lengths) > 1 or codings not in ([], ["chunked"]):
        raise Violation("bad framing headers")
    if lengths and not re.fullmatch(r"[0-9]+", lengths[0]):
        raise Violation("bad content-length")
    framed = _chunked(data, end + 4) if codings else _sized(data, end + 4, int(lengths[0]) if lengths else 0)
    if framed is None:
        return None
    body, consumed = framed
    return (request_line[1].decode(), request_line[2].decode(), headers, body), consumed


def _sized(data: bytes, at: int, size: int) -> tuple[bytes, int] | None:
    return (data[at : at + size], at + size) if len(data) >= at + size else None


def _chunked(data: bytes, at: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while (end := data.find(b"\r\n", at)) >= 0:
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", data[at:end]):
            raise Violation("bad chunk size")
        size = int(data[at:end], 16)
        at = end + 2
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise Violation("bad chunk end")
        body += data[at : at + size]
        at += size + 2
        if size == 0:
            return bytes(body), at
    return None
