"""Keys and tenants over HTTP, for administrators: what `forebay keys` does, with the same fields."""

import contextlib
from collections.abc import Iterator
from time import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError

from forebay.api.admitted import AdmittedRoute
from forebay.api.usage import actor_of
from forebay.policy.grants import Grant, Key, Limits, NewKey, NotValid, Tenant, TenantName
from forebay.refusals import BadRequest, Conflict, NotFound, Unavailable
from forebay.store.keys import PAGE, Keys, RevokedKey, UnknownKey

MAX_PAGE = 1000
PRINTABLE = r"^[\x20-\x7e]*$"  # PostgreSQL takes no NUL
MAX_GRACE_S = 30 * 86_400.0
router = APIRouter(prefix="/admin/v1", tags=["keys"], route_class=AdmittedRoute)
KeyId = Annotated[str, Path(max_length=64, pattern=PRINTABLE, description="The key's id.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries on a page.")]
After = Annotated[str, Query(max_length=64, pattern=PRINTABLE, description="The last id of the page before.")]


class MadeKey(Key):
    """A key and its secret, which is shown this once."""

    key: str = Field(description="What callers present. It cannot be shown again.")


class KeyPage(BaseModel):
    """Some keys; `after` is what to ask the next page with, null where there is none."""

    keys: list[Key]
    after: str | None


class TenantPage(BaseModel):
    """Some tenants; `after` as for keys."""

    tenants: list[Tenant]
    after: str | None


class Rotation(BaseModel):
    """How a key is rotated."""

    model_config = ConfigDict(extra="forbid")

    grace_s: Annotated[
        float,
        Field(
            strict=True,
            ge=0,
            le=MAX_GRACE_S,
            allow_inf_nan=False,
            description="Time for which the secret before goes on working, seconds.",
        ),
    ] = 0.0


@router.post("/keys", status_code=201, summary="Make a key")
def create_key(request: Request, response: Response, new: NewKey) -> MadeKey:
    """The key with its secret, which is shown this once."""
    with _told():
        key, text = _keys(request).create(new, time())
    return _made(response, key, text)


@router.get("/keys", summary="List keys")
def list_keys(request: Request, tenant: TenantName | None = None, after: After = "", limit: Limit = PAGE) -> KeyPage:
    """Keys in the order of their ids, revoked ones too; of one tenant where it is named."""
    with _told():
        found = _keys(request).page(tenant, after, limit)
    return KeyPage(keys=found, after=found[-1].id if len(found) == limit else None)


@router.get("/keys/{key_id}", summary="One key")
def show_key(request: Request, key_id: KeyId) -> Key:
    """All that is known of a key; its secret is not."""
    with _told():
        return _keys(request).show(key_id)


@router.patch("/keys/{key_id}", summary="Change a key")
def change_key(request: Request, key_id: KeyId, fields: Grant) -> Key:
    """Takes on the fields that are given and keeps the others; null lifts a limit."""
    with _told():
        return _keys(request).change(key_id, fields)


@router.post("/keys/{key_id}/rotate", summary="Give a key another secret")
def rotate_key(request: Request, response: Response, key_id: KeyId, how: Rotation | None = None) -> MadeKey:
    """The key with its new secret, which is shown this once; the one before ends now, or after `grace_s`."""
    with _told():
        key, text = _keys(request).rotate(key_id, time(), (how or Rotation()).grace_s)
    return _made(response, key, text)


@router.post("/keys/{key_id}/revoke", summary="Revoke a key")
@router.delete("/keys/{key_id}", summary="Revoke a key")
def revoke_key(request: Request, key_id: KeyId) -> Key:
    """Ends a key for good, in every gateway within 2 s. It goes on being listed."""
    with _told():
        return _keys(request).revoke(key_id, time())


@router.get("/tenants", summary="List tenants")
def list_tenants(request: Request, after: After = "", limit: Limit = PAGE) -> TenantPage:
    """Tenants and what all keys of each may use together."""
    with _told():
        found = _keys(request).tenants(after, limit)
    return TenantPage(tenants=found, after=found[-1].id if len(found) == limit else None)


@router.put("/tenants/{tenant}", summary="Set a tenant's limits")
def set_tenant(request: Request, tenant: Annotated[TenantName, Path()], limits: Limits) -> Tenant:
    """Takes on the limits that are given and keeps the others; a tenant not yet known is made."""
    with _told():
        return _keys(request).set_tenant(tenant, limits)


def _keys(request: Request) -> Keys:
    database: Any = request.app.state.gateway.database
    if database is None:
        raise NotFound("Keys are not kept in a database here; set keys_database or database_url.")
    return Keys(database, actor_of(request))


def _made(response: Response, key: Key, text: str) -> MadeKey:
    response.headers["cache-control"] = "no-store"
    return MadeKey.model_construct(**dict(key), key=text)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Says what the store raises as a refusal."""
    try:
        yield
    except UnknownKey:
        raise NotFound("There is no key with this id.", code="key_not_found") from None
    except RevokedKey:
        gone = Conflict("The key has been revoked, which is for good.", code="key_revoked", should_retry=False)
        raise gone from None
    except NotValid as wrong:
        raise BadRequest(f"{wrong}.", param=wrong.field) from None
    except SQLAlchemyError:
        away = "The keys' database cannot be reached just now."
        raise Unavailable(away, code="keys_unavailable", retry_after_s=2) from None
