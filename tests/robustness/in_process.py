"""A whole gateway between two wires that are fed by hand: what a client says in, what an engine is told out.

So that a hundred thousand requests take a minute, and what each of them costs the event loop can be told exactly.
"""

import asyncio
import json
from collections.abc import Callable
from time import process_time
from typing import Any

from forebay.config.sources import load_settings
from forebay.gateway.build import Gateway
from forebay.gateway.listener import GatewayServer
from forebay.gateway.parts import make_replica
from forebay.gateway.server import ClientConnection
from forebay.telemetry.logging import LogWriter
from forebay.upstream.connection import Connection
from forebay.upstream.pool import Address
from tests.gateway.understanding import Wire

KEY = b"sk-test"
ANSWER = {
    "id": "a-1",
    "choices": [{"index": 0, "finish_reason": "stop", "text": "a", "message": {"role": "assistant", "content": "a"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
ENDS = {
    b"/v1/responses": b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    b"/v1/messages": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}
EVENT = b'data: {"id":"a-1","choices":[{"index":0,"text":"a","delta":{"content":"a"}}]}\n\n'


class InProcess:
    """One client connection and one to an engine, which answers rightly whatever reaches it."""

    def __init__(self, writer: LogWriter, **flags: Any) -> None:
        settings, _ = load_settings({"api_keys": (KEY.decode(),), "access_log": False, **flags}, env={})
        replica = make_replica(settings, "engine", Address.parse("http://127.0.0.1:1"))
        replica.models, replica.ready = {"m": {"id": "m"}}, True
        self.gateway = Gateway(settings, writer, [replica])
        self.gateway.replicas.refresh()
        self._server = GatewayServer(self.gateway)
        self._server.config.load()
        self._pool = replica.upstream
        self.seen: list[bytes] = []  # the bodies that reached the engine
        self.worst_s = 0.0  # that one request held the loop up, without the engine's part
        self._number = 0
        self._connect()

    def _connect(self) -> None:
        self.client = ClientConnection(self.gateway, self._server.config, self._server.server_state, {})
        self._to_client = Wire()
        self.client.connection_made(self._to_client)  # type: ignore[arg-type]
        self._connect_engine()

    def _connect_engine(self) -> None:
        self.engine = Connection(self._pool._outbox, self._pool._idle.append, self._pool._forget)
        self._to_engine = Wire()
        self.engine.send(b"", self)
        self.engine.connection_made(self._to_engine)  # type: ignore[arg-type]
        self.engine.data_received(_whole(b"{}"))

    # The reader of the engine's first answer, which makes its connection an idle one
    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None: ...
    def block(self, data: bytes, now: float) -> None: ...
    def end(self, now: float) -> None: ...
    def failed(self, failure: Exception) -> None: ...

    async def ask(
        self, path: bytes, body: bytes, answers: Callable[[bytes], list[bytes]] | None = None
    ) -> tuple[int, bytes]:
        """One request; its status and answer. The connection is in step: the answer is to this request and whole.

        `answers` tells what the engine sends instead of what is right, piece by piece; then it closes.
        """
        self._number += 1
        request_id = b"fuzz-%d" % self._number
        head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-api-key: %s\r\nx-request-id: %s\r\n"
        request = head % (path, KEY, request_id) + b"content-length: %d\r\n\r\n%s" % (len(body), body)
        await self._timed(self.client.data_received, request)
        while self.gateway.pipeline.running:
            if told := self._to_engine.taken():
                sent = told.partition(b"\r\n\r\n")[2]
                self.seen.append(sent)
                right = _answer_to(path, sent)
                for piece in [right] if answers is None else answers(right):
                    if not self.engine.closed:
                        await self._timed(self.engine.data_received, piece)
                if answers is not None:
                    self.engine.connection_lost(None)
                    self._connect_engine()
            else:  # a large body is read in a thread
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # what is written goes out at a turn's end
        return _read(self._to_client.taken(), request_id)

    async def _timed(self, feed: Any, data: bytes) -> None:
        began = process_time()
        feed(data)
        await asyncio.sleep(0)
        self.worst_s = max(self.worst_s, process_time() - began)


def _answer_to(path: bytes, body: bytes) -> bytes:
    streams = path not in (b"/v1/embeddings", b"/tokenize") and json.loads(body, parse_int=float).get("stream") is True
    if not streams:
        return _whole(json.dumps(ANSWER).encode())
    return _whole(EVENT + ENDS.get(path, b"data: [DONE]\n\n"), b"text/event-stream")


def _whole(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (content_type, len(body), body)


def _read(answer: bytes, request_id: bytes) -> tuple[int, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    assert b"x-request-id: " + request_id in head.lower() + b"\r\n", head
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    if length:
        assert len(body) == int(length), answer[:200]
    else:
        assert body.endswith(b"0\r\n\r\n"), body[-50:]
        assert b"x-request-id: fuzz" not in body.lower()
    return int(head[9:12]), body
