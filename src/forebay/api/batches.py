"""OpenAI's Batch API: files of requests, asked behind all who wait for an answer."""

import asyncio
import json
from time import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from forebay.api.admitted import CallersRoute
from forebay.api.files import After, Id, batching_of, caller_of, page_fields, told
from forebay.refusals import BadRequest, Conflict
from forebay.store.batches import Batch
from forebay.store.files import PURPOSE

MOST_WINDOW_S = 7 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=CallersRoute)
Key = Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]
Value = Annotated[str, Field(max_length=512, pattern=r"^[^\x00]*$")]


class NewBatch(BaseModel):
    """What a batch is made of."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    input_file_id: str = Field(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: str = Field(pattern=r"^[1-9][0-9]{0,5}[smhd]$", description="Such as 24h, at most 7d.")
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None


class Counts(BaseModel):
    """How far a batch is, in lines."""

    total: int
    completed: int
    failed: int


class Errors(BaseModel):
    """Why a batch could not begin: what is wrong with its file."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class BatchObject(BaseModel):
    """A batch, as OpenAI's clients know it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: Errors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str] | None


class BatchPage(BaseModel):
    """Some batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", summary="Begin a batch")
async def create_batch(request: Request, asked: NewBatch) -> BatchObject:
    """Has the requests of a file asked within its window (`24h`), each once, behind all who wait for an answer."""
    batching, who = batching_of(request), caller_of(request)
    window_s = int(asked.completion_window[:-1]) * _UNITS[asked.completion_window[-1]]
    if window_s > MOST_WINDOW_S:
        raise BadRequest("'completion_window' must be at most 7d.", param="completion_window")
    values = {
        "input_file": asked.input_file_id,
        "endpoint": asked.endpoint,
        "completion_window": asked.completion_window,
        "metadata": json.dumps(asked.metadata) if asked.metadata is not None else None,
    }

    def create() -> Batch:
        if batching.files.find(who.tenant, asked.input_file_id).purpose != PURPOSE:
            raise BadRequest(f"The file must be uploaded with purpose '{PURPOSE}'.", param="input_file_id")
        return batching.batches.create(who, values, window_s, time())

    with told():
        batch = await asyncio.to_thread(create)
    batching.wake()
    return _object(batch)


@router.get("", summary="List batches")
def list_batches(request: Request, after: After = "", limit: Annotated[int, Query(ge=1, le=100)] = 20) -> BatchPage:
    """The tenant's batches, the newest first."""
    with told():
        found = batching_of(request).batches.page(caller_of(request).tenant, after, limit + 1)
    return BatchPage(**page_fields([_object(batch) for batch in found], limit))


@router.get("/{batch_id}", summary="One batch")
def show_batch(request: Request, batch_id: Id) -> BatchObject:
    """How far a batch is, about a second behind; its files once it is over."""
    with told():
        return _object(batching_of(request).batches.find(caller_of(request).tenant, batch_id))


@router.post("/{batch_id}/cancel", summary="Cancel a batch")
def cancel_batch(request: Request, batch_id: Id) -> BatchObject:
    """Ends a batch early; what is answered by then is kept, in its files."""
    batching = batching_of(request)
    with told():
        batch = batching.batches.cancel(caller_of(request).tenant, batch_id, time())
    if not batch.active and batch.status != "cancelled":
        raise Conflict(f"The batch is {batch.status} already.", code="batch_over", should_retry=False)
    return _object(batch)


def _object(batch: Batch) -> BatchObject:
    ended = {batch.status: _second(batch.ended_at)}
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=Errors(data=json.loads(batch.errors)) if batch.errors is not None else None,
        input_file_id=batch.input_file,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file,
        error_file_id=batch.error_file,
        created_at=int(batch.created_at),
        in_progress_at=_second(batch.in_progress_at),
        expires_at=int(batch.expires_at),
        finalizing_at=_second(batch.finalizing_at),
        completed_at=ended.get("completed"),
        failed_at=ended.get("failed"),
        expired_at=ended.get("expired"),
        cancelled_at=ended.get("cancelled"),
        cancelling_at=_second(batch.cancelling_at),
        request_counts=Counts(total=batch.total, completed=batch.completed, failed=batch.failed),
        metadata=json.loads(batch.metadata) if batch.metadata is not None else None,
    )


def _second(wall: float | None) -> int | None:
    return int(wall) if wall is not None else None
