"""Whose key is this? The gateway's way into the keys' database: look-ups, what is remembered of them, and what changes.

    known                             at once, from memory
    SQLite                            at once too: one statement on a connection of its own, some microseconds
    PostgreSQL                        in a thread; requests with the same key wait for one look-up
    the database cannot be reached    known keys go on; others are refused with 503, without trying

`follow` asks every second what has changed. What a look-up finds is remembered only if no change came in meanwhile: it
may have been read before that change, and would never be forgotten.
"""

import asyncio
import hmac
import logging
import sqlite3
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from time import time
from typing import Any

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.exc import SQLAlchemyError

from forebay.policy.auth import Found, KeyLimits, Principal, not_ours, with_default
from forebay.policy.known import Known
from forebay.refusals import Refusal, Unavailable
from forebay.store.database import POOL_SIZE, Database, why
from forebay.store.tables import changes, key_secrets, keys, tenants

log = logging.getLogger("forebay.keys")

POLL_EVERY_S = 1.0
MOST_CHANGES = 1000  # more at once, and everything is forgotten
MOST_WAITING = 1000
MMAP_BYTES = 1 << 30

_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month")
_FIND = (
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
_FIND_HERE = str(_FIND.compile(dialect=SQLiteDialect(paramstyle="qmark")))


class KeyDirectory:
    """The keys of a database, as principals. `default` is for whoever has no number of requests of its own."""

    def __init__(self, database: Database, size: int, default: KeyLimits) -> None:
        self.known = Known(size)
        self.found = self.unknown = self.failed = 0
        self.away = ""  # why the database cannot be reached; empty while it can
        self._database = database
        self._default = default
        self._here = _connect(database) if database.file is not None else None
        self._threads = ThreadPoolExecutor(POOL_SIZE, "forebay-keys")
        self._asked: dict[bytes, asyncio.Task[Found]] = {}
        self._number = -1  # of the latest change that is taken in

    def __repr__(self) -> str:
        return f"<KeyDirectory {self.known!r} change={self._number} {'away' if self.away else 'up'}>"

    def find(self, credential: bytes, digest: bytes, wall: float) -> Principal | Awaitable[Found] | None:
        """Whose a key is: at once, or to be awaited. Raises `Unavailable`."""
        principal = self.known.get(digest)
        if principal is not None:
            return principal
        if self.known.is_nobody(digest, wall):
            return None
        if self._here is not None:
            return self._find_here(self._here, digest, wall)
        return self._find_there(digest)

    def _find_here(self, connection: sqlite3.Connection, digest: bytes, wall: float) -> Principal | None:
        try:
            rows = connection.execute(_FIND_HERE, (digest,)).fetchall()  # all: an open cursor would hold old pages
        except sqlite3.Error as failure:
            self.failed += 1
            raise self._unavailable(str(failure)) from None
        return self._learn(digest, rows, wall)

    def _find_there(self, digest: bytes) -> Awaitable[Found]:
        asked = self._asked.get(digest)
        if asked is None:
            if self.away or len(self._asked) >= MOST_WAITING:
                self.failed += 1
                raise unavailable()
            asked = self._asked[digest] = asyncio.get_running_loop().create_task(self._ask(digest))
            asked.add_done_callback(lambda _: self._asked.pop(digest))
        return asyncio.shield(asked)  # one that leaves must not take the answer from the others

    async def _ask(self, digest: bytes) -> Found:
        number = self._number
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, digest)
        except SQLAlchemyError as failure:
            self.failed += 1
            return self._unavailable(why(failure))
        return self._learn(digest, rows, time(), remember=number == self._number) or not_ours()

    def _read(self, digest: bytes) -> list[Any]:
        with self._database.engine.connect() as connection:
            return list(connection.execute(_FIND, {"digest": digest}))

    def _learn(self, digest: bytes, rows: list[Any], wall: float, *, remember: bool = True) -> Principal | None:
        principal = None
        if rows and hmac.compare_digest(bytes(rows[0][0]), digest):
            principal = principal_of(rows[0], self._default)
        if principal is not None:
            self.found += 1
        else:
            self.unknown += 1
        if remember:
            self.known.learn(digest, principal, wall)
        return principal

    def _unavailable(self, reason: str) -> Refusal:
        if not self.away:
            log.error("the keys' database cannot be reached; known keys go on", extra={"why": reason})
        self.away = reason
        return unavailable()

    # What changes
    def begin(self) -> None:
        """Note how far changes are, before the first look-up; what is found from then on may be remembered."""
        try:
            self._number = self._changes_since(None)[0]
        except SQLAlchemyError as failure:
            self._unavailable(why(failure))

    async def follow(self) -> None:
        """Take changes in, every second, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                news = await loop.run_in_executor(self._threads, self._changes_since, self._number)
            except SQLAlchemyError as failure:
                self._unavailable(why(failure))
            else:
                self._take_in(*news)
            await asyncio.sleep(POLL_EVERY_S)

    def _changes_since(self, seen: int | None) -> tuple[int, list[str], list[str]]:
        """The latest change's number, and the keys and tenants changed since the one seen."""
        with self._database.engine.connect() as connection:
            number = connection.execute(select(changes.c.number)).scalar_one()
            if seen is None or number == seen:
                return number, [], []
            changed = (
                select(table.c.id).where(table.c.changed > seen).limit(MOST_CHANGES + 1) for table in (keys, tenants)
            )
            of_keys, of_tenants = (list(connection.execute(one).scalars()) for one in changed)
            return number, of_keys, of_tenants

    def _take_in(self, number: int, of_keys: list[str], of_tenants: list[str]) -> None:
        if self.away:
            log.info("the keys' database is back")
            self.away = ""
        if number == self._number:
            return
        if number < self._number or max(len(of_keys), len(of_tenants)) > MOST_CHANGES:  # restored, or too many
            self.known.forget_all()
        else:
            self.known.forget(set(of_keys), set(of_tenants))
        self._number = number

    async def close(self) -> None:
        """End, once what is being asked has been answered."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        if self._here is not None:
            self._here.close()


def unavailable() -> Unavailable:
    return Unavailable(
        "Who you are cannot be found out just now. Try again shortly.", code="keys_unavailable", retry_after_s=2
    )


def principal_of(row: Any, default: KeyLimits) -> Principal:
    """A row of `_FIND` as a principal."""
    _, secret_expires_at, expires_at, key_id, tenant, scopes, models, priority, weight = row[:9]
    ends = [when for when in (expires_at, secret_expires_at) if when is not None]
    return Principal(
        tenant,
        key_id,
        _scopes(scopes),
        _models(models),
        priority,
        weight,
        with_default(_limits(*row[9:14]), default),
        _limits(*row[14:19]),
        min(ends) if ends else None,
    )


# Few differ: a thousand keys share one object.
@lru_cache(4096)
def _limits(*numbers: int | None) -> KeyLimits:
    return KeyLimits(*numbers)


@lru_cache(64)
def _scopes(text: str) -> frozenset[str]:
    return frozenset(text.split())


@lru_cache(4096)
def _models(text: str | None) -> frozenset[str] | None:
    return frozenset(msgspec.json.decode(text)) if text is not None else None


def _connect(database: Database) -> sqlite3.Connection:
    """A connection that only reads, on the event loop's own thread; it waits for nobody."""
    assert database.file is not None
    connection = sqlite3.connect(
        f"file:{database.file}?mode=ro", uri=True, timeout=0.0, isolation_level=None, cached_statements=8
    )
    connection.execute(f"PRAGMA mmap_size={MMAP_BYTES}")
    return connection
