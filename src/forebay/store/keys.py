"""Keys and tenants: made, listed, changed, rotated, revoked. One transaction each; none is ever deleted.

A key's text is `fb-<id>-<43 characters of 256 random bits>`. It is returned by what makes it and kept nowhere: the
database has its SHA-256, which needs no salt and no slow hash, because nobody can guess that many bits.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import sha256
from itertools import islice
from typing import Any

import msgspec
from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from forebay.policy.grants import Grant, ImportedKey, Key, Limits, NewKey, NotValid, Tenant, at, not_valid
from forebay.store.audit import Actor, AuditLog, command_line
from forebay.store.database import Database
from forebay.store.tables import key_secrets, keys, tenants
from forebay.wire.plain import plain_object

PAGE = 100
_BATCH = 1000  # rows in a statement
_CONFIGURED = re.compile(r"key-[0-9a-f]{8}")  # tenants that `auth.fixed_keys` makes, whom nobody looks up here


class UnknownKey(Exception):
    """There is no such key."""


class RevokedKey(Exception):
    """The key has been revoked, which is for good."""


class Keys:
    """The keys in one database. `wall` is the time in wall-clock seconds; `actor` is who changes them: whoever runs
    this process, where nobody is named.
    """

    def __init__(self, database: Database, actor: Actor | None = None) -> None:
        self._database = database
        self._actor = actor or command_line()
        self._audit = AuditLog(database)

    def create(self, new: NewKey, wall: float) -> tuple[Key, str]:
        """Make a key; return it and its text, which nobody can tell again."""
        if new.expires_at is not None and new.expires_at.timestamp() <= wall:
            raise NotValid("expires_at", "must be in the future")
        key_id = secrets.token_hex(8)
        text = _new_text(key_id)
        with self._changing("key.created", key_id, _told(new)) as (connection, number):
            _make_tenants(connection, {new.tenant}, number)
            connection.execute(insert(keys), _row(new, key_id, wall, number))
            connection.execute(insert(key_secrets), {"digest": _digest(text), "key_id": key_id})
        return self.show(key_id), text

    def show(self, key_id: str) -> Key:
        """One key. Raises `UnknownKey`."""
        with self._database.engine.connect() as connection:
            return _key(_of(connection, key_id))

    def page(self, tenant: str | None = None, after: str = "", limit: int = PAGE) -> list[Key]:
        """Keys in the order of their ids, from the one behind `after`; of one tenant, or of all."""
        chosen = select(keys).where(keys.c.id > after).order_by(keys.c.id).limit(limit)
        if tenant is not None:
            chosen = chosen.where(keys.c.tenant == tenant)
        with self._database.engine.connect() as connection:
            return [_key(row) for row in connection.execute(chosen).mappings()]

    def change(self, key_id: str, fields: Grant) -> Key:
        """Take on those of the fields that were set. Raises `UnknownKey` or `RevokedKey`."""
        values = _stored(fields.model_dump(exclude_unset=True))
        with self._changing("key.changed", key_id, _told(fields)) as (connection, number):
            _alive(connection, key_id)
            connection.execute(update(keys).where(keys.c.id == key_id).values(changed=number, **values))
        return self.show(key_id)

    def rotate(self, key_id: str, wall: float, grace_s: float = 0.0) -> tuple[Key, str]:
        """Give a key another text; the one before goes on opening it for `grace_s`. Raises as `change` does."""
        text = _new_text(key_id)
        with self._changing("key.rotated", key_id, {"grace_s": grace_s}) as (connection, number):
            _alive(connection, key_id)
            mine = key_secrets.c.key_id == key_id
            until = wall + grace_s
            if grace_s > 0:
                open_longer = (key_secrets.c.expires_at.is_(None)) | (key_secrets.c.expires_at > until)
                connection.execute(update(key_secrets).where(mine, open_longer).values(expires_at=until))
            else:
                connection.execute(delete(key_secrets).where(mine))
            connection.execute(insert(key_secrets), {"digest": _digest(text), "key_id": key_id})
            connection.execute(update(keys).where(keys.c.id == key_id).values(changed=number))
        return self.show(key_id), text

    def revoke(self, key_id: str, wall: float) -> Key:
        """End a key for good; again does no harm. Raises `UnknownKey`."""
        with self._changing("key.revoked", key_id, {}) as (connection, number):
            if _of(connection, key_id)["revoked_at"] is None:
                connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_at=wall, changed=number))
                connection.execute(delete(key_secrets).where(key_secrets.c.key_id == key_id))
        return self.show(key_id)

    def take_in(self, imported: Iterable[ImportedKey], wall: float) -> int:
        """Import keys made elsewhere, all or none; return how many. Raises `NotValid` where one is known already."""
        count, entries = 0, iter(imported)
        details: dict[str, Any] = {}
        with self._changing("keys.imported", "", details) as (connection, number):
            known: set[str] = set()
            while batch := list(islice(entries, _BATCH)):
                new = {entry.tenant for entry in batch} - known
                _make_tenants(connection, new, number)
                known |= new
                _insert_imported(connection, batch, wall, number)
                count += len(batch)
            details["count"] = count
        return count

    def set_tenant(self, name: str, limits: Limits) -> Tenant:
        """Take on those of a tenant's limits that were set; a tenant not yet known is made. Raises `NotValid`."""
        if _CONFIGURED.fullmatch(name):
            raise NotValid("tenant", "a key of the settings has its limits there: api_key_limits, key_limits")
        with self._changing("tenant.set", name, _told(limits)) as (connection, number):
            _make_tenants(connection, {name}, number)
            values = limits.model_dump(exclude_unset=True)
            connection.execute(update(tenants).where(tenants.c.id == name).values(changed=number, **values))
            row = connection.execute(select(tenants).where(tenants.c.id == name)).mappings().one()
            return _tenant(row)

    def tenants(self, after: str = "", limit: int = PAGE) -> list[Tenant]:
        """Tenants in the order of their names, from the one behind `after`."""
        chosen = select(tenants).where(tenants.c.id > after).order_by(tenants.c.id).limit(limit)
        with self._database.engine.connect() as connection:
            return [_tenant(row) for row in connection.execute(chosen).mappings()]

    def _changing(
        self, action: str, target: str, details: Mapping[str, Any]
    ) -> AbstractContextManager[tuple[Connection, int]]:
        return self._audit.changing(self._actor, action, target, details)


def _told(fields: Limits) -> dict[str, Any]:
    """What the audit log tells of fields that were set."""
    return fields.model_dump(mode="json", exclude_unset=True)


def _new_text(key_id: str) -> str:
    return f"fb-{key_id}-{secrets.token_urlsafe(32)}"


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _of(connection: Connection, key_id: str) -> RowMapping:
    row = connection.execute(select(keys).where(keys.c.id == key_id)).mappings().one_or_none()
    if row is None:
        raise UnknownKey(key_id)
    return row


def _alive(connection: Connection, key_id: str) -> None:
    if _of(connection, key_id)["revoked_at"] is not None:
        raise RevokedKey(key_id)


def _make_tenants(connection: Connection, names: set[str], number: int) -> None:
    """Those that are not there yet; nobody else can be making them, as writers queue."""
    there = set(connection.execute(select(tenants.c.id).where(tenants.c.id.in_(names))).scalars()) if names else set()
    if missing := names - there:
        connection.execute(insert(tenants), [{"id": name, "changed": number} for name in sorted(missing)])


def _insert_imported(connection: Connection, batch: list[ImportedKey], wall: float, number: int) -> None:
    rows, digests = [], []
    for entry in batch:
        key_id = entry.id or secrets.token_hex(8)
        rows.append(_row(entry, key_id, wall, number))
        digest = bytes.fromhex(entry.sha256) if entry.sha256 is not None else _digest(entry.key or "")
        digests.append({"digest": digest, "key_id": key_id})
    try:
        connection.execute(insert(keys), rows)
        connection.execute(insert(key_secrets), digests)
    except IntegrityError:
        raise NotValid(
            "", "a key, or its id, is in the database already or comes twice; nothing was imported"
        ) from None


def _row(grant: NewKey, key_id: str, wall: float, number: int) -> dict[str, Any]:
    fields = _stored(grant.model_dump(exclude={"id", "key", "sha256"}))
    return {**fields, "id": key_id, "created_at": wall, "changed": number}


def _stored(fields: dict[str, Any]) -> dict[str, Any]:
    """A grant's fields as the table has them."""
    if "scopes" in fields:
        fields["scopes"] = " ".join(fields["scopes"])
    if fields.get("models") is not None:
        fields["models"] = msgspec.json.encode(fields["models"]).decode()
    if fields.get("expires_at") is not None:
        fields["expires_at"] = fields["expires_at"].timestamp()
    return fields


def _key(row: RowMapping) -> Key:
    fields = {name: value for name, value in row.items() if name != "changed"}
    fields["scopes"] = tuple(fields["scopes"].split())
    fields["models"] = msgspec.json.decode(fields["models"], type=tuple[str, ...]) if fields["models"] else None
    times = {name: at(fields[name]) for name in ("created_at", "revoked_at", "expires_at")}
    return Key.model_construct(**{**fields, **times})


def _tenant(row: RowMapping) -> Tenant:
    return Tenant.model_construct(**{name: value for name, value in row.items() if name != "changed"})


def entries(lines: Iterable[str]) -> Iterator[ImportedKey]:
    """Keys to import, a JSON object a line. Raises `NotValid` with the line's number."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = ImportedKey.model_validate(plain_object(line.encode()))
        except ValidationError as invalid:
            wrong = not_valid(invalid)
            raise NotValid(f"line {number}", str(wrong)) from None
        except ValueError as wrong:
            raise NotValid(f"line {number}", str(wrong)) from None
        if (entry.key is None) == (entry.sha256 is None):
            raise NotValid(f"line {number}", "give either key or sha256")
        yield entry
