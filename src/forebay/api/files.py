"""OpenAI's Files API, for what batches read and write. A tenant's keys share its files."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from time import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel
from python_multipart.multipart import parse_options_header
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import FormData, UploadFile
from starlette.types import Receive, Scope, Send

from forebay.api.admitted import most_bytes
from forebay.refusals import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    NotFound,
    RateLimited,
    Unavailable,
    UnsupportedMediaType,
)
from forebay.store.batches import TooManyBatches, UnknownBatch
from forebay.store.files import PURPOSE, FileInUse, NoRoom, StoredFile, UnknownFile

if TYPE_CHECKING:
    from forebay.api.batches import BatchObject
    from forebay.gateway.batching import Batching
    from forebay.policy.auth import Principal

log = logging.getLogger("forebay.files")

MOST_FIELDS = 8
MOST_NAME = 255
LEAST_S, MOST_S = 3600, 30 * 86_400  # of `expires_after`, as OpenAI has them
Id = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")]
After = Annotated[str, Query(max_length=64, pattern=r"^[A-Za-z0-9_-]*$", description="The last id of the page before.")]
router = APIRouter(prefix="/v1/files", tags=["files"])


class FileObject(BaseModel):
    """A file, as OpenAI's clients know it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FilePage(BaseModel):
    """Some files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@router.post("", summary="Upload a file")
async def upload_file(request: Request) -> FileObject:
    """Takes a file of requests (JSONL, `multipart/form-data`, `purpose=batch`) for a batch."""
    batching, who = batching_of(request), caller_of(request)
    _check_form(request)
    most = most_bytes(request, request.app.state.gateway.settings.max_file_bytes)
    with told(), batching.files.coming(who.tenant, most):
        async with request.form(max_files=1, max_fields=MOST_FIELDS) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise BadRequest("Send the file as multipart/form-data, in a part 'file'.", param="file")
            if form.get("purpose") != PURPOSE:
                raise BadRequest(f"Files are for batches here: 'purpose' must be '{PURPOSE}'.", param="purpose")
            wall = time()
            name, ends = (file.filename or "file")[:MOST_NAME].replace("\0", ""), _expires_at(form, wall)
            stored = await asyncio.to_thread(batching.files.take_in, who.tenant, name, file.file, wall, ends)
    return _object(stored)


@router.get("", summary="List files")
def list_files(
    request: Request,
    purpose: Annotated[str | None, Query(max_length=32, pattern=r"^[a-z_]*$")] = None,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    order: Literal["asc", "desc"] = "desc",
) -> FilePage:
    """The tenant's files, the newest first; `purpose` is `batch` or `batch_output`."""
    files, tenant = batching_of(request).files, caller_of(request).tenant
    with told():
        found = files.page(tenant, purpose, after, limit + 1, newest_first=order == "desc")
    return FilePage(**page_fields([_object(stored) for stored in found], limit))


@router.get("/{file_id}", summary="One file")
def show_file(request: Request, file_id: Id) -> FileObject:
    """What is known of a file."""
    with told():
        return _object(batching_of(request).files.find(caller_of(request).tenant, file_id))


@router.get("/{file_id}/content", summary="What is in a file", response_class=FileResponse)
def read_file(request: Request, file_id: Id) -> FileResponse:
    """The file itself."""
    files = batching_of(request).files
    with told():
        stored = files.find(caller_of(request).tenant, file_id)
    path = files.path(stored.tenant, stored.id)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise NotFound("The file's content is not in this gateway's files_dir.", code="file_not_found") from None
    return _Whole(path, stat_result=found, media_type="application/octet-stream", filename=stored.name)


@router.delete("/{file_id}", summary="Delete a file")
def delete_file(request: Request, file_id: Id) -> DeletedFile:
    """Removes a file that no batch under way reads."""
    with told():
        batching_of(request).files.remove(caller_of(request).tenant, file_id)
    return DeletedFile(id=file_id)


class _Whole(FileResponse):
    """A file, all of it whatever range was asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["accept-ranges"] = "none"
        fields = [field for field in scope["headers"] if field[0] != b"range"]
        await super().__call__({**scope, "headers": fields}, receive, send)


def batching_of(request: Request) -> "Batching":
    """What keeps files and batches. Raises `NotFound`."""
    batching: Batching | None = request.app.state.gateway.batching
    if batching is None:
        need = "Files and batches need a database: set DATABASE_URL (database_url), or keys_database."
        raise NotFound(need, code="no_database")
    return batching


def caller_of(request: Request) -> "Principal":
    who: Principal = request.state.principal
    return who


def page_fields(found: "Sequence[FileObject | BatchObject]", limit: int) -> dict[str, Any]:
    """OpenAI's page of at most `limit`, made of what was found: one more where there is another page."""
    data = found[:limit]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return {"data": data, "first_id": ends[0], "last_id": ends[1], "has_more": len(found) > limit}


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Says what the stores raise as a refusal."""
    try:
        yield
    except UnknownFile:
        raise NotFound("There is no file with this id.", code="file_not_found") from None
    except UnknownBatch:
        raise NotFound("There is no batch with this id.", code="batch_not_found") from None
    except FileInUse:
        used = "A batch that is not over reads this file. Cancel it, or wait for its end."
        raise Conflict(used, code="file_in_use", should_retry=False) from None
    except NoRoom:
        full = "Your files would take more than max_tenant_file_bytes. Delete some."
        raise BodyTooLarge(full, code="no_room", should_retry=False) from None
    except TooManyBatches:
        many = "Too many of your batches are not over. Wait for one's end."
        raise RateLimited(many, code="too_many_batches", retry_after_s=60, should_retry=False) from None
    except OSError as failure:
        log.error("files cannot be kept", extra={"why": str(failure)})
        full = "Files cannot be written or read just now."
        raise Unavailable(full, code="files_unavailable", retry_after_s=10) from None
    except SQLAlchemyError:
        away = "The database cannot be reached just now."
        raise Unavailable(away, code="database_unavailable", retry_after_s=2) from None


def _check_form(request: Request) -> None:
    """Refuse what is not a form, or has names in a coding that is not UTF-8."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise UnsupportedMediaType("Send the file as multipart/form-data in UTF-8, in a part 'file'.")


def _expires_at(form: FormData, wall: float) -> float | None:
    """When the caller wants the file to go."""
    seconds = form.get("expires_after[seconds]")
    if seconds is None:
        return None
    if not (isinstance(seconds, str) and re.fullmatch("[0-9]{1,9}", seconds) and LEAST_S <= int(seconds) <= MOST_S):
        raise BadRequest(f"'expires_after[seconds]' must be {LEAST_S} to {MOST_S}.", param="expires_after")
    return wall + int(seconds)


def _object(stored: StoredFile) -> FileObject:
    return FileObject(
        id=stored.id,
        bytes=stored.bytes,
        created_at=int(stored.created_at),
        expires_at=int(stored.expires_at),
        filename=stored.name,
        purpose=stored.purpose,
    )
