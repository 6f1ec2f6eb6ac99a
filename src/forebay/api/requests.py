"""The stories of recent requests, for administrators: `forebay why ID`. No prompt, answer or key is in one."""

from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from forebay.api.admitted import AdmittedRoute
from forebay.refusals import NotFound
from forebay.telemetry.recent import ERRORS, KINDS, USUAL_A_SECOND, Kept, Kind, Recent
from forebay.telemetry.story import summary, told
from forebay.telemetry.why import verdict

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

PAGE = 50
MAX_PAGE = 1000
router = APIRouter(prefix="/admin/v1/requests", tags=["requests"], route_class=AdmittedRoute)
Only = Literal["errors", "refused", "unavailable", "failed", "cut", "taken_over", "slow"]


class RequestLine(BaseModel):
    """A request. Times are milliseconds but for `time`, when it came; `status` is 0 while it is under way."""

    request_id: str
    time: float = Field(description="Wall-clock seconds since 1970.")
    kind: Kind | None = Field(description="What went wrong: null where nothing did.")
    endpoint: str
    model: str
    tenant: str
    key_id: str
    client: str
    status: int
    outcome: str = Field(description="answered, refused, failed, cancelled (the caller left), or running.")
    stream: bool
    duration_ms: float
    queued_ms: float | None
    ttft_ms: float | None
    error: str
    replica: str
    attempts: int
    takeovers: int
    cache: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    engine_request_id: str
    trace_id: str


class RequestStep(BaseModel):
    """What was decided when."""

    at_ms: float
    what: str
    detail: dict[str, Any]


class RequestStory(RequestLine):
    """All that is known of a request."""

    verdict: str = Field(description="Where its time went, or what ended it, in one sentence.")
    arrived_ms: float = Field(description="When its body was in, and it was its turn on its connection.")
    events: int = Field(description="Of a stream, those that were sent to the caller.")
    longest_gap_ms: float = Field(description="Between two blocks of a stream.")
    paused_ms: float = Field(description="How long the caller did not read what there was.")
    limits: dict[str, int] = Field(description="What its limits were, and what they left.")
    engine_timings: dict[str, float | None] | None = Field(description="The engine's own, with `engine_timings`.")
    steps: list[RequestStep]
    also: list[RequestLine] = Field(description="Earlier requests with this id: callers may give one twice.")


class Requests(BaseModel):
    """Some requests, the latest first; every one since `since` is kept."""

    data: list[RequestLine]
    since: float = Field(description="Wall-clock seconds since 1970; 0 where there was none yet.")


@router.get("", summary="Recent requests, or those of them that went wrong")
async def list_requests(
    request: Request,
    only: Annotated[Only | None, Query(description="errors: refused, unavailable and failed.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
    tenant: Annotated[str | None, Query(max_length=256)] = None,
) -> Requests:
    """The latest first. Those that went wrong are kept for longer than the others, each kind in a ring of its own."""
    recent = _recent(request)
    found = recent.latest(limit, _kinds(only), tenant)
    return Requests(data=[RequestLine(**summary(kept)) for kept in found], since=recent.since)


@router.get("/{request_id}", summary="The story of one request: where its time went, or what ended it")
async def show_request(
    request: Request,
    request_id: Annotated[str, Path(max_length=256, description="Its own id, its answer's, or its trace's.")],
) -> RequestStory:
    """What was decided when; of one that is under way, up to now. Of several with the same id the latest; `also` names
    the others."""
    recent = _recent(request)
    found = [*_under_way(request, request_id), *recent.named(request_id)]
    if not found:
        raise NotFound(_gone(recent), code="request_not_found")
    return _story(found[0], found[1:])


def _story(kept: Kept, also: list[Kept]) -> RequestStory:
    story = told(kept)
    return RequestStory(**story, verdict=verdict(story), also=[RequestLine(**summary(one)) for one in also])


def _under_way(request: Request, name: str) -> list[Kept]:
    """The stories so far of those with an id that are not over."""
    gateway: Gateway = request.app.state.gateway
    now = monotonic()
    stories = (gateway.recorder.so_far(exchange, now) for exchange in gateway.pipeline.running)
    return [kept for kept in stories if kept.is_called(name)]


def _kinds(only: Only | None) -> tuple[Kind, ...]:
    if only == "errors":
        return ERRORS
    return tuple(kind for kind in KINDS if kind == only)


def _recent(request: Request) -> Recent:
    recent: Recent | None = request.app.state.gateway.recorder.recent
    if recent is None:
        raise NotFound("No request's story is kept here: recent_requests is 0.", code="request_not_found")
    return recent


def _gone(recent: Recent) -> str:
    """How far the memory goes back."""
    if not recent.since:
        return "No request with this id is known: none has ended since this gateway was started."
    since = datetime.fromtimestamp(recent.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    reach = f"those that ended before {since} are forgotten" if recent.is_full else f"the first one ended at {since}"
    if recent.left_out:
        reach += f", of those that go well {USUAL_A_SECOND} a second are kept"
    return (
        f"No request with this id is known: {reach}, or another gateway had it. Ids are in the "
        "answers' header x-request-id."
    )
