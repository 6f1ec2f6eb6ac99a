"""What administrators do (scope `admin`): replace the engines while they serve; what all endpoints take and give."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from forebay.api.admitted import AdmittedRoute
from forebay.api.usage import actor_of
from forebay.refusals import Conflict, NotFound

router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=AdmittedRoute)


@router.post("/rollout", status_code=202, summary="Replace the engines whose options have changed")
async def begin_rollout(request: Request, force: Annotated[bool, Body(embed=True)] = False) -> JSONResponse:
    """Reads the settings again and replaces, one after the other, the engines that they change; all with `force`."""
    rollout = _rollout(request)
    if not rollout.begin(force=force):
        raise Conflict("A rollout is under way; GET /admin/v1/rollout shows it.", code="rollout_running")
    note = request.app.state.gateway.audit.note
    await run_in_threadpool(note, actor_of(request), "rollout.begun", force=force)
    return JSONResponse(rollout.describe(), 202)


@router.get("/rollout", summary="How the latest rollout goes")
async def show_rollout(request: Request) -> dict[str, Any]:
    """State (none, running, done, failed), how many engines are replaced, and the steps done, the latest last."""
    told: dict[str, Any] = _rollout(request).describe()
    return told


def _rollout(request: Request) -> Any:
    rollout = request.app.state.gateway.rollout
    if rollout is None:
        raise NotFound("This process owns no engines; roll out where they run.")
    return rollout


@router.get("/openapi.json", summary="This description, as OpenAPI has it")
async def describe(request: Request) -> dict[str, Any]:
    """All endpoints that the gateway answers itself, with what they take and give."""
    app: FastAPI = request.app
    return app.openapi()
