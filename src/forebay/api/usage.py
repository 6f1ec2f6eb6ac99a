"""The usage ledger and the audit log over HTTP, for administrators: what `forebay usage` and `forebay audit` tell."""

import base64
import contextlib
import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from forebay.api.admitted import AdmittedRoute
from forebay.refusals import BadRequest, NotFound, Unavailable
from forebay.store.audit import PAGE, Actor, AuditLog, Deed
from forebay.store.database import Database
from forebay.store.usage import Dimension, Question, Sum, sums

MAX_PAGE = 1000
_cursors = msgspec.json.Decoder(list[str])
router = APIRouter(prefix="/admin/v1", route_class=AdmittedRoute)
Day = Annotated[date | None, Query(description="A day (UTC), such as 2030-01-31; included.")]
Text = Annotated[str | None, Query(max_length=256, pattern=r"^[^\x00]*$")]  # PostgreSQL takes no NUL
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries on a page.")]
Cursor = Annotated[str, Query(max_length=2048, description="`after` of the page before.")]


class UsageLine(BaseModel):
    """What was used, summed by what was asked for; what was not is left out."""

    day: date | None = None
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    requests: int
    errors: int = Field(description="Of the requests, those answered with an error.")
    prompt_tokens: int
    cached_tokens: int = Field(description="Of the prompt tokens, those that the engine had in its prefix cache.")
    completion_tokens: int
    estimated_tokens: int = Field(
        description="Of the completion tokens, those of streams cut short, counted as events delivered."
    )
    replayed_tokens: int = Field(description="Tokens of answers out of the response cache; in no other figure.")
    cost: Decimal | None = Field(None, description="By the settings' `prices` as they are now, null without any.")


class UsagePage(BaseModel):
    """Some lines; `after` is what to ask the next page with, null where there is none."""

    usage: list[UsageLine]
    after: str | None


class AuditPage(BaseModel):
    """Some deeds, the latest first; `after` as for usage."""

    audit: list[Deed]
    after: int | None


@router.get("/usage", summary="Usage by day, tenant, key or model", tags=["usage"], response_model_exclude_unset=True)
def show_usage(
    request: Request,
    by: Annotated[list[Dimension], Query(max_length=4, description="What to sum by; repeat.")] = [  # noqa: B006
        "tenant",
        "key",
        "model",
    ],
    since: Day = None,
    until: Day = None,
    tenant: Text = None,
    key: Text = None,
    model: Text = None,
    after: Cursor = "",
    limit: Limit = PAGE,
) -> UsagePage:
    """What has been used, in the order of what it is summed by. It is a few seconds behind."""
    dimensions = tuple(dict.fromkeys(by))
    asked = Question(by=dimensions, since=since, until=until, tenant=tenant, key=key, model=model)
    prices = request.app.state.gateway.settings.prices
    with _told():
        found = sums(_database(request), asked, prices, _behind(after, dimensions), limit)
    lines = [UsageLine(**line.fields) for line in found]
    return UsagePage(usage=lines, after=_cursor(found[-1]) if len(found) == limit else None)


@router.get("/audit", summary="What administrators did", tags=["audit"])
def show_audit(
    request: Request,
    actor: Text = None,
    action: Text = None,
    target: Text = None,
    since: Day = None,
    until: Day = None,
    after: Annotated[int | None, Query(ge=1, le=2**62, description="The last id of the page before.")] = None,
    limit: Limit = PAGE,
) -> AuditPage:
    """Deeds, the latest first. Nothing is ever taken out of this list."""
    with _told():
        found = AuditLog(_database(request)).page(
            actor=actor,
            action=action,
            target=target,
            since=since,
            until=until,
            after=after,
            limit=limit,
        )
    return AuditPage(audit=found, after=found[-1].id if len(found) == limit else None)


def actor_of(request: Request) -> Actor:
    """Who asks, for the audit log."""
    return Actor(request.state.principal.key_id, request.client.host if request.client is not None else "")


def _cursor(line: Sum) -> str:
    values = [value.isoformat() if isinstance(value, date) else value for value in line.of.values()]
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def _behind(after: str, by: tuple[Dimension, ...]) -> list[Any]:
    """What a page's cursor says. Raises `BadRequest`."""
    if not after:
        return []
    try:
        values = _cursors.decode(base64.urlsafe_b64decode(after))
        if len(values) == len(by) and not any("\0" in value for value in values):  # PostgreSQL takes no NUL
            return [
                date.fromisoformat(value) if name == "day" else value for name, value in zip(by, values, strict=True)
            ]
    except (msgspec.DecodeError, ValueError):
        pass
    raise BadRequest("after: not what a page with the same `by` gave.", param="after")


def _database(request: Request) -> Database:
    database: Database | None = request.app.state.gateway.database
    if database is None:
        raise NotFound("There is no database here; set keys_database or database_url.")
    return database


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError:
        away = "The database cannot be reached just now."
        raise Unavailable(away, code="database_unavailable", retry_after_s=2) from None
