"""Is it alive, is it ready, what are its figures. Each answer is made from memory: safe to ask every second.

Whoever asks learns the state. Why it is so, and of what engines, is told to those who may read the metrics, and to
administrators: it names addresses, models and errors.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from forebay.telemetry.metrics import Metrics

PROBE_PATHS = frozenset(
    {
        *("/health", "/healthz", "/livez", "/health/ready", "/ready", "/readyz"),
        *("/metrics", "/metrics/engines", "/admin/v1/live"),
    }
)


class Role(Protocol):
    """What this process does: a gateway, or an engine's agent. The application keeps it as `state.role`."""

    metrics: Metrics

    def status(self) -> dict[str, Any]: ...
    def readiness(self) -> tuple[bool, str]: ...


Sees = Callable[
    [Request], Awaitable[bool]
]  # whether a caller is told details; the application keeps it as `state.sees`
router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["metrics"])


@router.get("/health", summary="Status for operators")
@router.get("/healthz", include_in_schema=False)
@router.get("/livez", include_in_schema=False)
async def health(request: Request) -> dict[str, Any]:
    """200 while this process works, whatever the engines do; with a key that opens /metrics, or an administrator's,
    the body says what they do."""
    told = _role(request).status()
    return told if await _sees(request) else {"status": told["status"], "ready": told["ready"]}


@router.get("/health/ready", summary="Whether requests would be served")
@router.get("/ready", include_in_schema=False)
@router.get("/readyz", include_in_schema=False)
async def ready(request: Request) -> JSONResponse:
    """200 once an engine has generated a token; 503 before, while none is ready, and while draining."""
    is_ready, why = _role(request).readiness()
    if is_ready:
        return JSONResponse({"status": "ready"})
    reason = {"reason": why} if await _sees(request) else {}
    return JSONResponse({"status": "not ready", **reason}, 503, {"retry-after": "2"})


@metrics_router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus's text format."""
    return Response(generate_latest(_role(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _role(request: Request) -> Role:
    role: Role = request.app.state.role
    return role


async def _sees(request: Request) -> bool:
    sees: Sees = request.app.state.sees
    return await sees(request)


async def everybody(_request: Request) -> bool:
    return True
