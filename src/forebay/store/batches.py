"""Batches in the database: what is asked, how far it is, and which gateway is at it.

    validating ─► in_progress ─► finalizing ─► completed
        │              │              └──────► expired        its window is over; what is not done says so
        │              └─────────────────────► failed         its key is no more
        └────────────────────────────────────► failed         its file is no batch
    any of the first three ─► cancelling ─► cancelled         what is done is kept

A gateway takes a batch by raising `run` while nobody holds it, holds it for a while at a time, by the database's clock,
and changes it only as the run that it is: one that was thought dead finds that it is not its batch any more, and
changes nothing.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from forebay.policy.auth import KeyLimits, Principal
from forebay.store.clock import WallClock
from forebay.store.database import Database
from forebay.store.files import ACTIVE, new_id
from forebay.store.lookups import CALLER, principal_of
from forebay.store.tables import batches

MOST_ACTIVE = 100  # of a tenant
PRIORITY = -1_000_000  # added to the caller's own: whoever waits for an answer goes first


class UnknownBatch(Exception):
    """The tenant has no batch with this id."""


class TooManyBatches(Exception):
    """As many of a tenant's batches as may are not over."""


class NotOurs(Exception):
    """Another gateway has taken the batch over, or it is over."""


@dataclass(frozen=True)
class Batch:
    """A batch's row."""

    id: str
    tenant: str
    caller: str
    endpoint: str
    input_file: str
    completion_window: str
    metadata: str | None
    status: str
    errors: str | None
    total: int
    completed: int
    failed: int
    output_file: str | None
    error_file: str | None
    created_at: float
    expires_at: float
    in_progress_at: float | None
    finalizing_at: float | None
    cancelling_at: float | None
    ended_at: float | None
    run: int
    held_until: float

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


class Batches:
    """All batches of a database. `default` limits keys that have no limit of their own."""

    def __init__(self, database: Database, default: KeyLimits) -> None:
        self._database = database
        self._default = default

    def __repr__(self) -> str:
        return f"<Batches in {self._database!r}>"

    # For callers
    def create(self, caller: Principal, asked: Mapping[str, Any], window_s: float, wall: float) -> Batch:
        """Note a batch down. Raises `TooManyBatches`."""
        values = {**_NEW, **asked, "id": new_id("batch_", wall), "tenant": caller.tenant, "caller": _told(caller)}
        values |= {"created_at": wall, "expires_at": wall + window_s}
        active = select(func.count()).where(batches.c.tenant == caller.tenant, batches.c.status.in_(ACTIVE))
        with self._database.engine.connect() as connection:
            if connection.execute(active).scalar_one() >= MOST_ACTIVE:
                raise TooManyBatches
        with self._database.engine.begin() as connection:
            connection.execute(insert(batches), values)
        return self.find(caller.tenant, values["id"])

    def find(self, tenant: str, batch_id: str) -> Batch:
        """A tenant's batch. Raises `UnknownBatch`."""
        chosen = select(batches).where(batches.c.id == batch_id, batches.c.tenant == tenant)
        with self._database.engine.connect() as connection:
            row = connection.execute(chosen).mappings().one_or_none()
        if row is None:
            raise UnknownBatch(batch_id)
        return _batch(row)

    def page(self, tenant: str, after: str, limit: int) -> list[Batch]:
        """A tenant's batches, the newest first, from the one behind `after`."""
        chosen = select(batches).where(batches.c.tenant == tenant).order_by(batches.c.id.desc()).limit(limit)
        if after:
            chosen = chosen.where(batches.c.id < after)
        with self._database.engine.connect() as connection:
            return [_batch(row) for row in connection.execute(chosen).mappings()]

    def cancel(self, tenant: str, batch_id: str, wall: float) -> Batch:
        """Have a batch end with what it has, unless it is over. Raises `UnknownBatch`."""
        mine = update(batches).where(batches.c.id == batch_id, batches.c.tenant == tenant)
        running = mine.where(batches.c.status.in_(ACTIVE), batches.c.status != "cancelling")
        with self._database.engine.begin() as connection:
            connection.execute(running.values(status="cancelling", cancelling_at=wall))
        return self.find(tenant, batch_id)

    # For the gateway that is at it
    def take(self, lease_s: float, busy: Collection[str]) -> Batch | None:
        """Take the oldest batch that nobody is at, of a tenant that is not busy here."""
        free = (batches.c.status.in_(ACTIVE), batches.c.held_until < WallClock(), batches.c.tenant.not_in(busy))
        chosen = select(batches.c.id, batches.c.run).where(*free).order_by(batches.c.id).limit(1)
        with self._database.engine.connect() as connection:
            row = connection.execute(chosen).one_or_none()
        if row is None:
            return None
        taken = update(batches).where(
            batches.c.id == row.id, batches.c.run == row.run, batches.c.held_until < WallClock()
        )
        taken = taken.values(run=row.run + 1, held_until=WallClock() + lease_s).returning(*batches.c)
        with self._database.engine.begin() as connection:
            mine = connection.execute(taken).mappings().one_or_none()
        return _batch(mine) if mine is not None else None

    def change(self, batch: Batch, also: Callable[[Connection], None] = lambda connection: None, **values: Any) -> str:
        """Change a batch that is ours, and do something else with it, and return its status. Raises `NotOurs`."""
        ours = update(batches).where(batches.c.id == batch.id, batches.c.run == batch.run, batches.c.status.in_(ACTIVE))
        with self._database.engine.begin() as connection:
            status: str | None = connection.execute(ours.values(**values).returning(batches.c.status)).scalar()
            if status is None:
                raise NotOurs(batch.id)
            also(connection)
        return status

    def hold(self, batch: Batch, lease_s: float, **values: Any) -> str:
        """Hold a batch that is ours for longer, or with 0 no longer, and return its status. Raises `NotOurs`."""
        return self.change(batch, held_until=WallClock() + lease_s if lease_s else 0.0, **values)

    def advance(self, batch: Batch, status: str, **values: Any) -> str:
        """Go on to another status, unless it was cancelled meanwhile; return which it is. Raises `NotOurs`."""
        ours = update(batches).where(
            batches.c.id == batch.id, batches.c.run == batch.run, batches.c.status.in_(set(ACTIVE) - {"cancelling"})
        )
        with self._database.engine.begin() as connection:
            moved = connection.execute(ours.values(status=status, **values)).rowcount
        return status if moved else self.change(batch, run=batch.run)

    def caller(self, batch: Batch, wall: float) -> Principal | None:
        """Who asked for it, as the key is now; None where it may ask no more."""
        asked = msgspec.json.decode(batch.caller, type=Principal)
        with self._database.engine.connect() as connection:
            row = connection.execute(CALLER, {"key_id": asked.key_id}).one_or_none()
        if row is None:  # a configured key, or a token: as it was
            return replace(asked, expires_at=None, priority=asked.priority + PRIORITY)
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= wall):
            return None
        now = principal_of(row, self._default)
        return replace(now, expires_at=None, priority=now.priority + PRIORITY) if "inference" in now.scopes else None


_NEW = {
    "status": "validating",
    **dict.fromkeys(("errors", "output_file", "error_file"), None),
    **dict.fromkeys(("in_progress_at", "finalizing_at", "cancelling_at", "ended_at"), None),
    **dict.fromkeys(("total", "completed", "failed", "run", "held_until"), 0),
}


def _told(caller: Principal) -> str:
    return msgspec.json.encode(caller).decode()


def _batch(row: Mapping[Any, Any]) -> Batch:
    return Batch(**row)
