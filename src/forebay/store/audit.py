"""What administrators did, by whom and from where: a table that is only ever added to, and a log line each.

What changes the database is written down in the same transaction, so that neither is there without the other. Secrets
are in none of it: whoever calls says what the details are, field by field.
"""

import contextlib
import getpass
import logging
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from time import time
from typing import Any

import msgspec
from pydantic import BaseModel, Field
from sqlalchemy import Connection, RowMapping, insert, select
from sqlalchemy.exc import SQLAlchemyError

from forebay.policy.grants import at
from forebay.store.database import Database, why
from forebay.store.tables import audit

log = logging.getLogger("forebay.audit")

PAGE = 100
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it: a key by its id, or somebody at a machine's command line."""

    name: str
    address: str


class Deed(BaseModel):
    """One thing done."""

    id: int
    at: datetime
    actor: str = Field(description="The id of the key that was presented, or who typed the command.")
    address: str = Field(description="Where from: an address, or the machine of the command line.")
    action: str = Field(description="What was done, such as key.created.")
    target: str = Field(description="On what: a key's id, a tenant's name.")
    details: dict[str, Any]


def command_line() -> Actor:
    """Whoever runs this process from a command line."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user, as containers have it
        user = "unknown"
    return Actor(f"command line: {user}", socket.gethostname())


def write(connection: Connection, actor: Actor, action: str, target: str, details: Mapping[str, Any]) -> None:
    """Write a deed down in the transaction that does it; call `tell` when that is committed."""
    row = {"at": time(), "actor": actor.name, "address": actor.address, "action": action, "target": target}
    connection.execute(insert(audit), {**row, "details": msgspec.json.encode(details).decode()})


def tell(actor: Actor, action: str, target: str, details: Mapping[str, Any]) -> None:
    """The log line of a deed."""
    what = {"action": action, "target": target, "details": dict(details)}
    log.info("administration", extra={"actor": actor.name, "client": actor.address, **what})


class AuditLog:
    """Deeds in the database, where there is one, and in the log."""

    def __init__(self, database: Database | None) -> None:
        self._database = database

    @contextlib.contextmanager
    def changing(
        self, actor: Actor, action: str, target: str, details: Mapping[str, Any]
    ) -> Iterator[tuple[Connection, int]]:
        """A change of the database (`Database.change`) that is a deed. `details` may be filled until it is over."""
        assert self._database is not None
        with self._database.change() as (connection, number):
            yield connection, number
            write(connection, actor, action, target, details)
        tell(actor, action, target, details)

    def note(self, actor: Actor, action: str, target: str = "", **details: Any) -> None:
        """A deed that changes nothing in the database. It may take a while; it is in the log at least."""
        tell(actor, action, target, details)
        if self._database is None:
            return
        try:
            with self._database.engine.begin() as connection:
                write(connection, actor, action, target, details)
        except SQLAlchemyError as failure:
            log.error("not in the audit table", extra={"action": action, "why": why(failure)})

    def page(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        since: date | None = None,
        until: date | None = None,
        after: int | None = None,
        limit: int = PAGE,
    ) -> list[Deed]:
        """Deeds, the latest first, from the one behind `after`; of some days (UTC), both included."""
        assert self._database is not None
        chosen = select(audit).order_by(audit.c.id.desc()).limit(limit)
        for column, value in ((audit.c.actor, actor), (audit.c.action, action), (audit.c.target, target)):
            chosen = chosen.where(column == value) if value is not None else chosen
        chosen = chosen.where(audit.c.at >= _start(since)) if since is not None else chosen
        chosen = chosen.where(audit.c.at < _start(until) + DAY_S) if until is not None else chosen
        chosen = chosen.where(audit.c.id < after) if after is not None else chosen
        with self._database.engine.connect() as connection:
            return [_deed(row) for row in connection.execute(chosen).mappings()]


def _start(day: date) -> float:
    return datetime.combine(day, datetime.min.time(), UTC).timestamp()


def _deed(row: RowMapping) -> Deed:
    return Deed.model_construct(**{**row, "at": at(row["at"]), "details": msgspec.json.decode(row["details"])})
