"""Requests that Forebay itself makes, for `/generate`, conversations and batches: over the same pipeline as all others.

So keys, limits, queue, cache, failover, metrics and the log hold for them without another word. There is no socket:
what the pipeline would write is handed to whoever awaits it. A stream's blocks queue up, and hold up the engine where
they are not taken.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from forebay.gateway.exchange import Exchange, Head
from forebay.gateway.routes import Route
from forebay.policy.auth import Principal
from forebay.room import Held

if TYPE_CHECKING:
    from forebay.gateway.pipeline import Pipeline

MOST_QUEUED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer, or the refusal in its place; `lines` are header lines that policies add."""

    status: int
    body: bytes
    lines: bytes
    exchange: Exchange

    @property
    def ok(self) -> bool:
        return self.status == 200


class Refused(Exception):
    """There is no stream: the request was refused, or failed before its first event."""

    def __init__(self, answered: Answered) -> None:
        super().__init__(f"refused with {answered.status}")
        self.answered = answered


class InnerCall:
    """One request. `await answer()` for a whole answer, iterate `events()` for a stream; once, and one of the two.

    Whoever stops waiting (a cancelled task, a generator that is closed) leaves like any client: the generation ends.
    """

    def __init__(
        self,
        pipeline: "Pipeline",
        principal: Principal,
        route: Route,
        body: bytes,
        *,
        address: str = "",
        headers: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._exchange = Exchange(self, Head(route, dict(headers or {}), True, address), route, {}, monotonic())
        self._exchange.headers = self._exchange.head.headers
        self._exchange.body = body
        self._exchange.principal = principal
        self._answered: Answered | None = None
        self._blocks: deque[bytes] = deque()
        self._queued_bytes = 0
        self._ended = False
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<InnerCall {self._exchange!r}>"

    async def answer(self) -> Answered:
        """Ask, and wait for the whole answer."""
        self._begin()
        try:
            while self._answered is None:
                await self._news.wait()
                self._news.clear()
            return self._answered
        finally:
            self._leave()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Ask, and yield the stream in blocks of whole events. Raises `Refused` before the first."""
        self._begin()
        try:
            while True:
                while self._blocks:
                    yield self._take()
                if self._answered is not None:
                    raise Refused(self._answered)
                if self._ended:
                    return
                await self._news.wait()
                self._news.clear()
        finally:
            self._leave()

    def _begin(self) -> None:
        self._pipeline.adopt(self._exchange)
        self._pipeline.begin(self._exchange, monotonic())

    def _take(self) -> bytes:
        block = self._blocks.popleft()
        before, self._queued_bytes = self._queued_bytes, self._queued_bytes - len(block)
        relay = self._exchange.relay
        if self._queued_bytes <= MOST_QUEUED_BYTES < before and relay is not None:
            relay.resume()
        return block

    def _put(self, block: bytes) -> None:
        self._blocks.append(block)
        before, self._queued_bytes = self._queued_bytes, self._queued_bytes + len(block)
        relay = self._exchange.relay
        if before <= MOST_QUEUED_BYTES < self._queued_bytes and relay is not None:
            relay.pause()
        self._news.set()

    def _leave(self) -> None:
        self._pipeline.client_gone(self._exchange, monotonic())

    @property
    def exchange(self) -> Exchange:
        """What is known of the request; of a stream once its first event is there, for the head of the answer."""
        return self._exchange

    # The client's part of an exchange
    def respond(
        self,
        exchange: Exchange,
        status: int,
        content_type: bytes,
        body: Held,
        extra: bytes = b"",
        close: bool = False,
    ) -> None:
        exchange.answer_status = status
        exchange.bytes_out = len(body)
        self._answered = Answered(status, bytes(body), exchange.lines + extra, exchange)
        self._ended = True
        self._news.set()

    def start_stream(self, exchange: Exchange, events: bytes) -> None:
        exchange.answer_status = 200
        self._put(events)

    def write_stream(self, events: bytes) -> None:
        self._put(events)

    def end_stream(self, events: bytes) -> None:
        self._ended = True
        if events:
            self._put(events)
        self._news.set()

    def exchange_over(self, exchange: Exchange, now: float) -> None:
        """Everything has been told by then."""
