"""How an endpoint of the application asks the pipeline: on its caller's behalf, for as long as its caller is there."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from forebay.gateway.inner import Answered, InnerCall
from forebay.gateway.routes import Route, find_route

T = TypeVar("T")

GONE = 499  # as NGINX has it, for the log: nobody reads it
_PASSED_ON = (
    *("traceparent", "tracestate", "x-session-id", "x-request-timeout-ms", "x-stainless-read-timeout"),
    *("cache-control", "x-forebay-cache", "x-forebay-preset"),
)
_MAX_ID = 128
_STREAM_FIELDS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def relayed(path: str) -> Route:
    """The relayed endpoint that a POST to this path is."""
    route = find_route(b"POST", path.encode())
    assert route is not None
    return route


def ask(
    request: Request,
    route: Route,
    body: Mapping[str, Any],
    *,
    part: int | None = None,
    headers: Mapping[bytes, bytes] | None = None,
) -> InnerCall:
    """A request of the caller's own, with the headers that policies look at; `part` numbers one of several."""
    request_id = request.state.request_id if part is None else f"{request.state.request_id[: _MAX_ID - 8]}-{part}"
    passed = {name.encode(): request.headers[name].encode("latin-1") for name in _PASSED_ON if name in request.headers}
    return InnerCall(
        request.app.state.gateway.pipeline,
        request.state.principal,
        route,
        msgspec.json.encode(body),
        address=request.client.host if request.client is not None else "",
        headers={**passed, b"x-request-id": request_id.encode(), **(headers or {})},
    )


async def unless_gone(request: Request, answering: Awaitable[T]) -> T | None:
    """What comes of it; None, and an end to it, once the caller has gone."""
    wanted = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait((wanted, gone), return_when=asyncio.FIRST_COMPLETED)
        return wanted.result() if wanted.done() else None
    finally:
        for task in (wanted, gone):
            task.cancel()
        await asyncio.wait((wanted, gone))


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def passed_back(answered: Answered) -> Response:
    """The pipeline's answer as it is."""
    return Response(answered.body, answered.status, fields_of(answered.lines), "application/json")


def fields_of(lines: bytes) -> dict[str, str]:
    """Header lines as a response takes them."""
    return dict(line.split(": ", 1) for line in lines.decode("latin-1").splitlines())


class EventStream(StreamingResponse):
    """Events made of a call's blocks, until their end or until the caller goes: then the call is left, begun or not."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], blocks: AsyncGenerator[bytes, None], lines: bytes) -> None:
        super().__init__(events, headers={**_STREAM_FIELDS, **fields_of(lines)})
        self._generators = (events, blocks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generator in self._generators:
                await generator.aclose()
