"""What callers and administrators send is read once it is known who they are, and only if it can be read in one way."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from forebay.gateway.errors import no_room
from forebay.refusals import BodyTooLarge, InvalidJSON
from forebay.room import SMALL_BYTES, Room
from forebay.wire.body import LARGE_BYTES
from forebay.wire.head import check_json
from forebay.wire.plain import plain_object
from forebay.wire.shape import check_parts

MOST_BYTES = 4 * 1024 * 1024  # FastAPI takes a body apart on the event loop, which a larger one would hold up,
MOST_ENTRIES = 1024  # and makes an error of each that is wrong: of an object or a list, as many as any may have here


class AdmittedRoute(APIRoute):
    """A route for administrators. FastAPI would read and decode anybody's body before its dependencies ask who calls,
    and take the last of two members with one name."""

    scope = "admin"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def admit_and_answer(request: Request) -> Response:
            await request.app.state.admit[self.scope](request)
            gateway = request.app.state.gateway
            settings = gateway.settings
            most_entries = max(MOST_ENTRIES, settings.max_batch_prompts)
            shape = settings.max_json_depth, settings.max_json_parts, most_entries
            with held(gateway.room, most_bytes(request, settings.max_body_bytes)):
                if body := await request.body():
                    content_type = request.headers.get("content-type")
                    check_json(content_type.encode("latin-1") if content_type is not None else None)
                    if len(body) > MOST_BYTES:
                        raise BodyTooLarge(f"A body for this endpoint may have at most {MOST_BYTES} bytes.")
                    if len(body) > LARGE_BYTES:
                        await asyncio.to_thread(_check, body, *shape)
                    else:
                        _check(body, *shape)
                return await answer(request)

        return admit_and_answer


class CallersRoute(AdmittedRoute):
    """The same for callers (scope `inference`)."""

    scope = "inference"


def most_bytes(request: Request, most: int) -> int:
    """How large the body will be, at most."""
    if (length := request.headers.get("content-length")) is not None:
        return int(length)
    return most if "transfer-encoding" in request.headers else 0


@contextlib.contextmanager
def held(room: Room, count: int) -> Iterator[None]:
    """Count a body that is not small as held. Raises `Overloaded`."""
    if count <= SMALL_BYTES:
        count = 0
    if not room.take(count):
        raise no_room()
    try:
        yield
    finally:
        room.give(count)


def _check(body: bytes, most_deep: int, most_parts: int, most_entries: int) -> None:
    with contextlib.suppress(ValueError):  # what is no JSON has no shape
        if len(body) > LARGE_BYTES or body.count(b"{") + body.count(b"[") > most_deep:
            check_parts(body, most_deep, most_parts)
    try:
        value = plain_object(body)
    except ValueError as wrong:
        raise InvalidJSON(f"The body must be one JSON object: {wrong}.") from None
    if body.count(b",") >= most_entries and _has_more(value, most_entries):
        raise InvalidJSON(f"A list or an object in the body has more than {most_entries} entries.")


def _has_more(value: Any, most: int) -> bool:
    """Whether there are more entries than that in a list or an object, or in one within it."""
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return len(entries) > most or any(_has_more(entry, most) for entry in entries)
