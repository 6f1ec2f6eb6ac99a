"""What is asked of the keys' database while a request waits, and its rows as principals and limits."""

from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from forebay.policy.auth import KeyLimits, Principal, with_default
from forebay.store.tables import key_secrets, keys, tenants

_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month")
FIND = (
    select(
        key_secrets.c.digest,
        key_secrets.c.expires_at.label("secret_expires_at"),
        keys.c.expires_at,
        keys.c.id,
        keys.c.tenant,
        keys.c.scopes,
        keys.c.models,
        keys.c.priority,
        keys.c.weight,
        *(keys.c[name] for name in _LIMITS),
        *(tenants.c[name].label(f"tenant_{name}") for name in _LIMITS),
    )
    .join(keys, keys.c.id == key_secrets.c.key_id)
    .join(tenants, tenants.c.id == keys.c.tenant)
    .where(key_secrets.c.digest == bindparam("digest"), keys.c.revoked_at.is_(None))
)
CALLER = (  # by a key's id, for who asks no more than whether it still may
    select(
        keys.c.id.label("digest"),
        keys.c.expires_at.label("secret_expires_at"),
        *list(FIND.selected_columns)[2:],
        keys.c.revoked_at,
    )
    .join(tenants, tenants.c.id == keys.c.tenant)
    .where(keys.c.id == bindparam("key_id"))
)
TENANT = select(*(tenants.c[name] for name in _LIMITS)).where(tenants.c.id == bindparam("tenant"))
FIND_HERE, TENANT_HERE = (str(one.compile(dialect=SQLiteDialect(paramstyle="qmark"))) for one in (FIND, TENANT))


def principal_of(row: Any, default: KeyLimits) -> Principal:
    """A row of `FIND` as a principal."""
    _, secret_expires_at, expires_at, key_id, tenant, scopes, models, priority, weight = row[:9]
    ends = [when for when in (expires_at, secret_expires_at) if when is not None]
    return Principal(
        tenant,
        key_id,
        _scopes(scopes),
        _models(models),
        priority,
        weight,
        with_default(limits_of_row(*row[9:14]), default),
        limits_of_row(*row[14:19]),
        min(ends) if ends else None,
    )


# Few differ: a thousand keys share one object.
@lru_cache(4096)
def limits_of_row(*numbers: int | None) -> KeyLimits:
    return KeyLimits(*numbers)


@lru_cache(64)
def _scopes(text: str) -> frozenset[str]:
    return frozenset(text.split())


@lru_cache(4096)
def _models(text: str | None) -> frozenset[str] | None:
    return frozenset(msgspec.json.decode(text)) if text is not None else None
