"""The database that DATABASE_URL names, for backup.sh and restore.sh; standard library only.

    service FILE   prints postgresql or sqlite; for PostgreSQL, writes a connection service file for its programs
    save FILE      copies a SQLite database that may be in use
    load FILE      puts such a copy in its place, as one transaction; whoever has it open goes on with what was loaded
    tables         how many tables the SQLite database has; 0 where there is none

What is wrong is said in one line, without the URL: a password may be in it.
"""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit


def fail(message: str) -> NoReturn:
    sys.exit(f"DATABASE_URL: {message}")


def parts_of(url: str) -> dict[str, str]:
    """PostgreSQL's connection parameters; what is in the URL's query goes before the rest, as libpq has it."""
    parts = urlsplit(url)
    found = {
        "host": parts.hostname or "",
        "port": str(parts.port or ""),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "dbname": unquote(parts.path.removeprefix("/")),
        **dict(parse_qsl(parts.query)),
    }
    return {name: value for name, value in found.items() if value}


def service(path: Path) -> str:
    """The kind of database, and its service file where it is PostgreSQL."""
    scheme, _, rest = os.environ["DATABASE_URL"].partition("://")
    kind = scheme.partition("+")[0]
    if kind in ("postgres", "postgresql"):
        try:
            told = parts_of(f"postgresql://{rest}")
        except ValueError as wrong:
            fail(f"its host or port is not valid: {wrong}")
        if any("\n" in value for value in told.values()):
            fail("there is a line's end in it")
        path.write_text("[forebay]\n" + "".join(f"{name}={value}\n" for name, value in told.items()))
        return "postgresql"
    if kind == "sqlite" and rest.removeprefix("/"):
        return "sqlite"
    fail("must be postgresql://user:password@host/name or sqlite:///path")


def sqlite_file() -> Path:
    return Path(unquote(os.environ["DATABASE_URL"].partition(":///")[2].partition("?")[0]))


def save(path: Path) -> None:
    """A whole and consistent copy, whoever writes meanwhile."""
    if not sqlite_file().is_file():
        fail(f"there is no file {sqlite_file()}")
    with closing(sqlite3.connect(sqlite_file())) as ours, closing(sqlite3.connect(path)) as copy:
        ours.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        if (found := copy.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            fail(f"the copy of {sqlite_file()} is damaged: {found}")


def load(path: Path) -> None:
    with closing(sqlite3.connect(path)) as copy, closing(sqlite3.connect(sqlite_file())) as ours:
        copy.backup(ours)


def tables() -> int:
    if not sqlite_file().is_file():
        return 0
    with closing(sqlite3.connect(sqlite_file())) as ours:
        return int(ours.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0])


def main() -> None:
    what, *paths = sys.argv[1:]
    try:
        if what == "tables":
            print(tables())
        elif (told := {"service": service, "save": save, "load": load}[what](Path(paths[0]))) is not None:
            print(told)
    except (sqlite3.Error, OSError) as failure:
        fail(str(failure))


if __name__ == "__main__":
    main()
