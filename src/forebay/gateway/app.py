"""Everything that is not relayed: health, metrics, the list of models, and "no such path", as a FastAPI application."""

import logging
from collections.abc import Iterator, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forebay import __version__
from forebay.api import (
    about,
    admin,
    batches,
    conversations,
    debug,
    engine_metrics,
    files,
    health,
    keys,
    models,
    native,
    page,
    requests,
    usage,
)
from forebay.api.inner import GONE, fields_of
from forebay.gateway.cors import EXPOSED_HEADERS
from forebay.gateway.errors import error_body, error_headers, id_lines
from forebay.gateway.routes import dialect_of, methods_of
from forebay.policy.auth import Principal, presented, require
from forebay.policy.grants import dotted, said
from forebay.refusals import BadRequest, InternalError, MethodNotAllowed, NotFound, Refusal
from forebay.telemetry.logging import ABOUT
from forebay.telemetry.recorder import trace_id_of
from forebay.wire.headers import accepted_traceparent

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway
log = logging.getLogger("forebay.access")

OPEN = (health.router, about.router, page.router)
INFERENCE = (models.router, native.router, conversations.router, files.router, batches.router)
METRICS = (health.metrics_router, engine_metrics.router)  # may be opened: `metrics_public`
KEYED = (*INFERENCE, *METRICS)
ADMIN = (admin.router, keys.router, usage.router, requests.router, debug.router, page.live_router)


def make_app(gateway: "Gateway") -> FastAPI:
    """The application over one gateway."""
    app = FastAPI(title="Forebay", version=__version__, redirect_slashes=False, openapi_url=None)
    app.state.gateway = app.state.role = gateway
    app.state.started_at = monotonic()
    app.state.relayed = methods_of
    app.state.about = about.About((*OPEN, *KEYED))
    callers, administrators = _needs(gateway, "inference"), _needs(gateway, "admin")
    app.state.admit = {
        "inference": callers[0].dependency,
        "admin": administrators[0].dependency,
    }  # before a body is read
    metrics_need = [] if gateway.settings.metrics_public else _needs(gateway, "metrics")
    app.state.sees = health.everybody if gateway.settings.metrics_public else _sees(gateway)
    for router in OPEN:
        if router is not page.router or gateway.settings.page:
            app.include_router(router)
    for router in INFERENCE:
        app.include_router(router, dependencies=callers)
    for router in METRICS:
        app.include_router(router, dependencies=metrics_need)
    for router in ADMIN:
        app.include_router(router, dependencies=administrators)
    if gateway.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(gateway.settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "authorization",
                "x-api-key",
                "content-type",
                "x-request-id",
                "traceparent",
                "tracestate",
                "x-forebay-cache",
                "x-forebay-preset",
            ],
            expose_headers=EXPOSED_HEADERS.decode().split(", "),
        )
    _answer_as_elsewhere(app, gateway)  # around all else, so that what the others answer has its id and its line too
    return app


def make_metrics_app(gateway: "Gateway") -> FastAPI:
    """What is served on the metrics port: health and metrics alone."""
    app = FastAPI(title="Forebay's metrics", version=__version__, redirect_slashes=False, openapi_url=None)
    app.state.gateway = app.state.role = gateway
    app.state.relayed = lambda _path: []
    settings = gateway.settings
    is_open = settings.metrics_public or settings.metrics_port_public
    app.state.sees = health.everybody if is_open else _sees(gateway)
    app.include_router(health.router)
    for router in METRICS:
        app.include_router(router, dependencies=[] if is_open else _needs(gateway, "metrics"))
    _answer_as_elsewhere(app, gateway)
    return app


def _needs(gateway: "Gateway", scope: str) -> list[Any]:
    """What lets a request through if its key has a scope; nobody is an administrator without saying who."""

    async def admit(request: Request) -> None:
        principal = await _caller(gateway, request, named=scope == "admin")
        require(principal, scope)
        request.state.principal = principal
        if (about := ABOUT.get()) is not None:
            about.update(key_id=principal.key_id, tenant=principal.tenant)

    return [Depends(admit)]


def _sees(gateway: "Gateway") -> health.Sees:
    """What tells whether a caller may see more than the state; no key, or a wrong one, is no reason to refuse."""

    async def sees(request: Request) -> bool:
        try:
            principal = await _caller(gateway, request)
        except Refusal:
            return False
        return not principal.scopes.isdisjoint(("metrics", "admin"))

    return sees


async def _caller(gateway: "Gateway", request: Request, *, named: bool = False) -> Principal:
    """Who is calling; with `named` nobody is anonymous. Raises `Refusal`."""
    auth = gateway.pipeline.auth  # looked up each time: a reload puts another in its place
    credentials, address = _credentials(request), request.client.host if request.client else ""
    if named:
        who = auth.recognise(presented(*credentials), time(), address)
    else:
        who = auth.authenticate(*credentials, time(), address)
    return who if isinstance(who, Principal) else auth.settled(await who, time(), address)


def _answer_as_elsewhere(app: FastAPI, gateway: "Gateway") -> None:
    """Errors in our form, and every answer with its request id."""
    app.add_exception_handler(Refusal, _answer_refusal)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_wrong_body)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_bug)
    app.add_middleware(_RequestId, gateway=gateway)


class _RequestId:
    """Gives every answer its request id, and every request but those that come every second or two its log line."""

    def __init__(self, app: ASGIApp, gateway: "Gateway") -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = self._gateway.request_id_of(headers)
        about = {"request_id": request_id}
        if (traceparent := accepted_traceparent(headers.get(b"traceparent"))) is not None:
            about["trace_id"] = trace_id_of(traceparent)
        ABOUT.set(about)  # in a task of this request's own; the lines of a bug are written behind us
        scope["state"]["request_id"] = request_id
        lines = fields_of(id_lines(request_id, dialect_of(scope["raw_path"])))
        fields = [(name.encode(), value.encode()) for name, value in lines.items()]
        started, status = monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            self._note(scope, status or InternalError.status, started)
            raise
        self._note(scope, status, started)
        about.clear()  # what goes on behind the answer is none of the request

    def _note(self, scope: Scope, status: int, started: float) -> None:
        """The line of the access log."""
        if self._has_line(scope["path"], status, elapsed_s := monotonic() - started):
            what = {"method": scope["method"], "path": scope["path"][:256], "status": status}
            client = scope["client"][0] if scope["client"] else ""
            log.info("request", extra={**what, "duration_ms": round(elapsed_s * 1e3, 3), "client": client})

    def _has_line(self, path: str, status: int, elapsed_s: float) -> bool:
        sampling = self._gateway.recorder.sampling
        if not self._gateway.settings.access_log or path in health.PROBE_PATHS:
            return False
        return sampling is None or sampling.keeps(status, elapsed_s)


def _credentials(request: Request) -> tuple[bytes | None, bytes | None]:
    """The key of a request, as either of two headers has it."""
    key, api_key = request.headers.get("authorization"), request.headers.get("x-api-key")
    return (
        key.encode("latin-1") if key is not None else None,
        api_key.encode("latin-1") if api_key is not None else None,
    )


def _refusal_response(request: Request, refusal: Refusal) -> Response:
    body = error_body(refusal, dialect_of(request.scope["raw_path"]), request.state.request_id)
    return Response(body, refusal.status, fields_of(error_headers(refusal)), "application/json")


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _refusal_response(request, error)


async def _answer_wrong_body(request: Request, error: Exception) -> Response:
    """A body or a query that is not as the endpoint has it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = dotted(_place(first["loc"], error.body)) or None
    return _refusal_response(request, BadRequest(f"{name or 'The body'}: {said(first['msg'])}.", param=name))


def _place(where: Sequence[Any], body: Any) -> Iterator[Any]:
    """Where in a request something is wrong, without the words that pydantic has for the kinds of a union."""
    for part in where[1:]:
        if where[0] != "body" or isinstance(body, dict if isinstance(part, str) else list):
            yield part
            body = body.get(part) if isinstance(body, dict) else body[part] if isinstance(body, list) else None


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors: unknown path, wrong method. A relayed path is here for its method or its query."""
    assert isinstance(error, HTTPException)
    relayed: list[str] = request.app.state.relayed(request.scope["raw_path"])
    if error.status_code == 405 or (relayed and request.method not in relayed):
        allowed = relayed or _methods(request.scope)
        headers = ((b"allow", ", ".join(allowed).encode()),)
        return _refusal_response(request, MethodNotAllowed(f"Use {' or '.join(allowed)} here.", headers=headers))
    if error.status_code == 404:
        return _refusal_response(request, NotFound("There is no such path here."))
    return _refusal_response(request, BadRequest(str(error.detail)))


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The client has gone before its body was there, or was refused for it."""
    return Response(status_code=GONE)


def _methods(scope: Scope) -> list[str]:
    """All that a path takes. Starlette tells of the first of its routes only."""
    routes = (route for router in (*OPEN, *KEYED, *ADMIN) for route in router.routes if isinstance(route, APIRoute))
    here = (route for route in routes if route.matches(scope)[0] is not Match.NONE)
    return sorted({method for route in here for method in route.methods or ()})


async def _answer_bug(request: Request, error: Exception) -> Response:
    """Our bug; Starlette logs the traceback. This answer passes by what adds header lines to all others."""
    answer = _refusal_response(request, InternalError("Forebay failed on this request; its log says why."))
    lines = id_lines(request.state.request_id, dialect_of(request.scope["raw_path"]))
    if (origin := request.headers.get("origin")) is not None:
        lines += request.app.state.gateway.cors_lines(origin.encode("latin-1"))
    answer.headers.update(fields_of(lines))
    return answer
