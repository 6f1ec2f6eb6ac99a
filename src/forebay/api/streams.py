"""What Forebay's own endpoints answer over the pipeline: streams, refusals, and callers that leave meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from forebay.gateway.errors import error_events
from forebay.gateway.inner import Answered
from forebay.gateway.routes import Dialect
from forebay.refusals import Refusal

T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def unless_left(request: Request, doing: Awaitable[T]) -> T:
    """Do it for as long as the caller is there. Raises `ClientLeft`, or what it raises. The body must be read."""
    task, left = asyncio.ensure_future(doing), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        left.cancel()
        task.cancel()
        await asyncio.wait({task, left})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """A stream whose first block is there. It is closed when it ends, and when the caller leaves."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        self._rest = rest
        self._blocks = _told(first, rest)
        super().__init__(self._blocks, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest), aclosing(self._blocks):  # the inner one may never have been begun
            await super().__call__(scope, receive, send)


async def _told(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    try:
        async for block in rest:
            yield block
    except Refusal as refusal:
        yield error_events(refusal, Dialect.OPENAI, 0)


def response_of(answered: Answered) -> Response:
    """What the pipeline answered, as it is."""
    lines = answered.lines.decode("latin-1").splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    return Response(answered.body, answered.status, headers, "application/json")


async def to_the_end(events: AsyncIterator[bytes]) -> None:
    """Take all there is."""
    async for _ in events:
        pass
