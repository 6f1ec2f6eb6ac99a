"""What is sent to Forebay itself is read once it is known who sends it, and only if it can be read in one way."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from forebay.refusals import InvalidJSON
from forebay.wire.plain import plain_object


class AdmittedRoute(APIRoute):
    """A route for administrators. FastAPI would read and decode anybody's body before its dependencies ask who calls,
    and take the last of two members with one name."""

    door = "admit_administrator"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def admit_and_answer(request: Request) -> Response:
            await getattr(request.app.state, self.door)(request)
            if body := await request.body():
                _check(body)
            return await answer(request)

        return admit_and_answer


class CallerRoute(AdmittedRoute):
    """The same for whoever may use the engines."""

    door = "admit_caller"


def _check(body: bytes) -> None:
    try:
        plain_object(body)
    except ValueError as wrong:
        raise InvalidJSON(f"The body must be one JSON object: {wrong}.") from None
