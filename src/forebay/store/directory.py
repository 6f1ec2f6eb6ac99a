"""Whose key is this, and what may a tenant use? The gateway's way into the keys' database: look-ups, what is remembered
of them, and what changes.

    known                             at once, from memory
    SQLite                            at once too: one statement on a connection of its own, some microseconds
    PostgreSQL                        in a thread; requests with the same key wait for one look-up, and an address that
                                      tries keys has few of them (`policy/attempts.py`)
    the database cannot be reached    known keys go on; others are refused with 503, without trying

`follow` asks every second what has changed. What a look-up finds is remembered only if no change came in meanwhile: it
may have been read before that change, and would never be forgotten.
"""

import asyncio
import hmac
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import time
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from forebay.policy.attempts import Attempts
from forebay.policy.auth import UNLIMITED, Found, KeyLimits, Principal, not_ours
from forebay.policy.known import Known
from forebay.refusals import Refusal, Unavailable
from forebay.store.database import POOL_SIZE, Database, why
from forebay.store.lookups import FIND, FIND_HERE, TENANT, TENANT_HERE, limits_of_row, principal_of
from forebay.store.tables import changes, keys, tenants

log = logging.getLogger("forebay.keys")

POLL_EVERY_S = 1.0
EXPIRY_EVERY_S = 60.0
MOST_CHANGES = 1000  # more at once, and everything is forgotten
MOST_WAITING = 1000
MMAP_BYTES = 1 << 30
Asked = TypeVar("Asked", bytes, str)
Answer = TypeVar("Answer")


class KeyDirectory:
    """The keys of a database, as principals. `default` is for whoever has no number of requests of its own."""

    def __init__(self, database: Database, size: int, default: KeyLimits, attempts: Attempts | None = None) -> None:
        self.known = Known(size)
        self.found = self.unknown = self.failed = 0
        self.next_expiry: float | None = None  # of a key that still opens, as wall-clock seconds
        self.away = ""  # why the database cannot be reached; empty while it can
        self._database = database
        self._default = default
        self._attempts = attempts or Attempts()
        self._here = _connect(database) if database.file is not None else None
        self._threads = ThreadPoolExecutor(POOL_SIZE, "forebay-keys")
        self._asked: dict[bytes | str, asyncio.Task[Any]] = {}  # by digest or tenant
        self._tenants: dict[str, KeyLimits] = {}
        self._most_tenants = size
        self._followers = [self.known]
        self._number = -1  # of the latest change that is taken in
        self._expiry_read_at = 0.0

    def __repr__(self) -> str:
        return f"<KeyDirectory {self.known!r} change={self._number} {'away' if self.away else 'up'}>"

    def find(self, credential: bytes, digest: bytes, wall: float, address: str) -> Principal | Awaitable[Found] | None:
        """Whose a key is: at once, or to be awaited. Raises `Unavailable` or `RateLimited`."""
        principal = self.known.get(digest)
        if principal is not None:
            return principal
        if self.known.is_nobody(digest, wall):
            return None
        if self._here is not None:
            return self._find_here(self._here, digest, wall)
        if digest in self._asked:
            return self._asked_once(digest, self._ask)
        host = self._attempts.begin_look_up(address, wall)
        try:
            answer = self._asked_once(digest, self._ask)
        except Refusal:
            self._attempts.end_look_up(host)
            raise
        self._asked[digest].add_done_callback(lambda _: self._attempts.end_look_up(host))
        return answer

    def limits_of(self, tenant: str) -> KeyLimits | Awaitable[KeyLimits | Refusal]:
        """What a tenant may use, where no key tells: at once, or to be awaited. Raises `Unavailable`."""
        limits = self._tenants.get(tenant)
        if limits is not None:
            return limits
        if self._here is not None:
            return self._learn_limits(tenant, self._rows_here(self._here, TENANT_HERE, tenant))
        return self._asked_once(tenant, self._ask_limits)

    def follow_with(self, known: Known) -> None:
        """Have others forget, too, what has changed."""
        self._followers.append(known)

    def _find_here(self, connection: sqlite3.Connection, digest: bytes, wall: float) -> Principal | None:
        return self._learn(digest, self._rows_here(connection, FIND_HERE, digest), wall)

    def _rows_here(self, connection: sqlite3.Connection, statement: str, value: bytes | str) -> list[Any]:
        try:
            return connection.execute(statement, (value,)).fetchall()  # all: an open cursor would hold old pages
        except sqlite3.Error as failure:
            self.failed += 1
            raise self._unavailable(str(failure)) from None

    def _asked_once(self, what: Asked, ask: Callable[[Asked], Coroutine[Any, Any, Answer]]) -> Awaitable[Answer]:
        asked = self._asked.get(what)
        if asked is None:
            if self.away or len(self._asked) >= MOST_WAITING:
                self.failed += 1
                raise unavailable()
            asked = self._asked[what] = asyncio.get_running_loop().create_task(ask(what))
            asked.add_done_callback(lambda _: self._asked.pop(what))
        return asyncio.shield(asked)  # one that leaves must not take the answer from the others

    async def _ask(self, digest: bytes) -> Found:
        number = self._number
        rows = await self._rows_there(FIND, digest=digest)
        if isinstance(rows, Refusal):
            return rows
        return self._learn(digest, rows, time(), remember=number == self._number) or not_ours()

    async def _ask_limits(self, tenant: str) -> KeyLimits | Refusal:
        number = self._number
        rows = await self._rows_there(TENANT, tenant=tenant)
        if isinstance(rows, Refusal):
            return rows
        return self._learn_limits(tenant, rows, remember=number == self._number)

    async def _rows_there(self, statement: Select[Any], **values: bytes | str) -> list[Any] | Refusal:
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, statement, values)
        except SQLAlchemyError as failure:
            self.failed += 1
            return self._unavailable(why(failure))
        if rows is None:
            self.failed += 1
            return unavailable()
        return rows

    def _read(self, statement: Select[Any], values: dict[str, Any]) -> list[Any] | None:
        """Rows; None where it turned out, while this waited for its turn, that nobody answers: each would take long."""
        if self.away:
            return None
        with self._database.engine.connect() as connection:
            return list(connection.execute(statement, values))

    def _learn_limits(self, tenant: str, rows: list[Any], *, remember: bool = True) -> KeyLimits:
        limits = limits_of_row(*rows[0]) if rows else UNLIMITED
        if remember:
            if len(self._tenants) >= self._most_tenants:
                del self._tenants[next(iter(self._tenants))]
            self._tenants[tenant] = limits
        return limits

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
                await self._follow_expiry(time())
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

    async def _follow_expiry(self, wall: float) -> None:
        """Which key expires next is looked up once a minute: it is for those who look after keys, and costs a scan."""
        if wall - self._expiry_read_at >= EXPIRY_EVERY_S:
            self._expiry_read_at = wall
            read = self._read_next_expiry
            self.next_expiry = await asyncio.get_running_loop().run_in_executor(self._threads, read, wall)

    def _read_next_expiry(self, wall: float) -> float | None:
        opens = keys.c.revoked_at.is_(None) & (keys.c.expires_at > wall)
        with self._database.engine.connect() as connection:
            found: float | None = connection.execute(select(func.min(keys.c.expires_at)).where(opens)).scalar_one()
            return found

    def _take_in(self, number: int, of_keys: list[str], of_tenants: list[str]) -> None:
        if self.away:
            log.info("the keys' database is back")
            self.away = ""
        if number == self._number:
            return
        if number < self._number or max(len(of_keys), len(of_tenants)) > MOST_CHANGES:  # restored, or too many
            self._tenants.clear()
            for known in self._followers:
                known.forget_all()
        else:
            for tenant in of_tenants:
                self._tenants.pop(tenant, None)
            for known in self._followers:
                known.forget(set(of_keys), set(of_tenants))
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


def _connect(database: Database) -> sqlite3.Connection:
    """A connection that only reads, on the event loop's own thread; it waits for nobody."""
    assert database.file is not None
    connection = sqlite3.connect(
        f"file:{database.file}?mode=ro", uri=True, timeout=0.0, isolation_level=None, cached_statements=8
    )
    connection.execute(f"PRAGMA mmap_size={MMAP_BYTES}")
    return connection
