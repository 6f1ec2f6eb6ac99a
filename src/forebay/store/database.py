"""The database: a SQLite file by default, PostgreSQL by URL. Opened here and nowhere else.

Every write begins with `change()`, whose first statement takes the next number of `changes`: writers queue there, in
either database, so that none has to be repeated. Readers never wait for writers.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from forebay.config.places import data_file
from forebay.config.settings import Settings
from forebay.store.tables import SCHEMA, changes

POOL_SIZE = 4
UPGRADE = "run `forebay db upgrade`"


class DatabaseError(Exception):
    """The database cannot be used; the message says why and what to do, without the URL's password."""


class Database:
    """An open database. Connections are made when they are needed; `check` tells whether it is as it must be."""

    def __init__(self, url: URL, timeout_s: float) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.engine = _engine(url, timeout_s)

    def __repr__(self) -> str:
        return f"<Database {self.where}>"

    @property
    def where(self) -> str:
        """The URL as it may be shown."""
        return self.url.render_as_string(hide_password=True)

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for another database."""
        return Path(self.url.database or "") if self.url.get_backend_name() == "sqlite" else None

    @property
    def place(self) -> str:
        """A name for it: what is kept on disk for one database must not be taken for another's."""
        url = self.url
        name = str(self.file.resolve()) if self.file is not None else f"{url.host}:{url.port}/{url.database}"
        return sha256(name.encode()).hexdigest()[:12]

    @contextlib.contextmanager
    def change(self, numbers: int = 1) -> Iterator[tuple[Connection, int]]:
        """A transaction that changes something, and its number (the last of several)."""
        with self.engine.begin() as connection:
            taken = update(changes).values(number=changes.c.number + numbers).returning(changes.c.number)
            yield connection, connection.execute(taken).scalar_one()

    def schema(self) -> str | None:
        """The migration that the database is at; None where it is empty. Raises `DatabaseError`."""
        try:
            with self.engine.connect() as connection:
                if not inspect(connection).has_table("alembic_version"):
                    return None
                return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        except SQLAlchemyError as failure:
            raise DatabaseError(f"{self.where}: {why(failure)}") from None

    def check(self) -> None:
        """Return if the schema is what this code needs. Raises `DatabaseError`."""
        schema = self.schema()
        if schema is None:
            raise DatabaseError(f"{self.where}: Forebay's tables are not there; {UPGRADE}")
        if schema < SCHEMA:
            raise DatabaseError(f"{self.where}: the tables are of an older Forebay ({schema} < {SCHEMA}); {UPGRADE}")
        if schema > SCHEMA:
            raise DatabaseError(f"{self.where}: the tables are of a newer Forebay ({schema}); run that one")

    def close(self) -> None:
        """Close all connections, and those that a thread is using now when it gives them back."""
        event.listen(self.engine.pool, "checkin", lambda _connection, record: record.invalidate())
        self.engine.dispose()


def database_at(settings: Settings) -> Database:
    """The database that the settings name, not looked at yet. Raises `DatabaseError`."""
    given = settings.database_url.get_secret_value() if settings.database_url is not None else ""
    if not given:
        return Database(URL.create("sqlite", database=str(data_file("forebay.db"))), settings.database_timeout_s)
    try:
        url = make_url(given)
    except ArgumentError:
        raise DatabaseError("database_url: not a URL such as postgresql://user:password@host/name") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return Database(url.set(drivername="postgresql+psycopg"), settings.database_timeout_s)
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return Database(url, settings.database_timeout_s)
    raise DatabaseError("database_url: neither sqlite:///path nor postgresql://user:password@host/name")


def open_database(settings: Settings) -> Database:
    """The database, ready for use; a new SQLite file is made. Raises `DatabaseError`."""
    database = database_at(settings)
    try:
        if database.file is not None and not _has_content(database.file):
            from forebay.store.upgrade import upgrade  # only here: Alembic takes a fifth of a second to import

            upgrade(database)
        database.check()
    except DatabaseError:
        database.close()
        raise
    return database


def why(failure: Exception) -> str:
    """What went wrong, on one line."""
    cause = failure.orig if isinstance(failure, DBAPIError) and failure.orig is not None else failure
    return " ".join(str(cause).split())[:300] or type(cause).__name__


def make_file(file: Path) -> None:
    """Make the SQLite file, for its owner alone, where there is none. Raises `DatabaseError`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as failure:
        raise DatabaseError(f"{file}: cannot be made: {failure.strerror}") from None


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def _engine(url: URL, timeout_s: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, pool_size=POOL_SIZE, max_overflow=0, connect_args={"timeout": timeout_s})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return engine
    milliseconds = int(timeout_s * 1000)
    return create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(int(timeout_s), 1),
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
            "application_name": "forebay",
            "keepalives_idle": 5,
            "tcp_user_timeout": 2 * milliseconds,
        },
    )


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own: `_engine` has it done
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
