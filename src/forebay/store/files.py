"""Files of callers: a row each in the database, and the bytes in a directory that its gateways share.

    <root>/<tenant's hash>/<id>      a file; `.<id>` while it is being written
    <root>/batches/<batch>/          what batches under way have written so far: `journal.py`

The bytes are there before the row is, and go after it. So what has no row is of no use, and is swept away after a day,
as files are whose time is over. A tenant never finds another's, whatever it asks for.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, case, delete, func, insert, select

from forebay.store.database import Database
from forebay.store.tables import batches, files

DAY_S = 86_400
LEAST_BYTES = 4096  # what a file counts for at least: it takes a block on disk, and a row
ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")
PURPOSE, OUTPUT = "batch", "batch_output"


class UnknownFile(Exception):
    """The tenant has no file with this id."""


class FileInUse(Exception):
    """A batch that is not over reads the file."""


class NoRoom(Exception):
    """The tenant has as many bytes in files as it may."""


@dataclass(frozen=True)
class StoredFile:
    """A file's row."""

    id: str
    tenant: str
    purpose: str
    name: str
    bytes: int
    created_at: float
    expires_at: float


def new_id(prefix: str, wall: float) -> str:
    """An id that nobody guesses and that is greater than those before."""
    return f"{prefix}{int(wall * 1000):012x}{secrets.token_hex(10)}"


class Files:
    """All files of a database. `most_bytes`: of what a tenant uploads."""

    def __init__(self, database: Database, root: Path, *, most_bytes: int, keep_s: float) -> None:
        self.root = root
        self._database = database
        self._most_bytes = most_bytes
        self._keep_s = keep_s
        self._coming: dict[str, int] = {}  # bytes by tenant

    def __repr__(self) -> str:
        return f"<Files {self.root} coming={sum(self._coming.values())}>"

    def path(self, tenant: str, file_id: str) -> Path:
        return self.root / sha256(tenant.encode()).hexdigest()[:24] / file_id

    def journal(self, batch_id: str) -> Path:
        """The directory of a batch under way."""
        return self.root / "batches" / batch_id

    @contextlib.contextmanager
    def coming(self, tenant: str, size: int) -> Iterator[None]:
        """While a tenant's upload of so many bytes comes. It is kept aside until it is whole, and counts nowhere else:
        those that come at once must have room together. Raises `NoRoom`."""
        before = self._coming.get(tenant, 0)
        if before and before + size > self._most_bytes:
            raise NoRoom
        self._coming[tenant] = before + size
        try:
            yield
        finally:
            self._coming[tenant] -= size
            if not self._coming[tenant]:
                del self._coming[tenant]

    def take_in(
        self, tenant: str, name: str, source: BinaryIO, wall: float, expires_at: float | None = None
    ) -> StoredFile:
        """Keep what a tenant sends. Raises `NoRoom`."""
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        with self._database.engine.connect() as connection:
            self._check_room(connection, tenant, max(size, LEAST_BYTES))
        file_id = new_id("file-", wall)
        self.write(self.path(tenant, file_id), iter(lambda: source.read(1 << 20), b""))
        ends = min(wall + self._keep_s, expires_at or wall + self._keep_s)
        stored = StoredFile(file_id, tenant, PURPOSE, name, size, wall, ends)
        try:
            with self._database.engine.begin() as connection:
                connection.execute(insert(files), vars(stored))
                self._check_room(connection, tenant, 0)  # others may have come while it was written
        except NoRoom:
            self.path(tenant, file_id).unlink()
            raise
        return stored

    def _check_room(self, connection: Connection, tenant: str, more_bytes: int) -> None:
        counted = case((files.c.bytes < LEAST_BYTES, LEAST_BYTES), else_=files.c.bytes)
        mine = select(func.sum(counted)).where(files.c.tenant == tenant, files.c.purpose == PURPOSE)
        if more_bytes + (connection.execute(mine).scalar() or 0) > self._most_bytes:
            raise NoRoom

    def add_output(self, connection: Connection, tenant: str, file_id: str, name: str, wall: float) -> None:
        """A file that a batch has written is one of its tenant's."""
        size = self.path(tenant, file_id).stat().st_size
        stored = StoredFile(file_id, tenant, OUTPUT, name, size, wall, wall + self._keep_s)
        connection.execute(insert(files), vars(stored))

    def output_id(self, made_by: str, wall: float) -> str:
        """The id of a file that a batch makes: another one for each that makes it, the same however often it does."""
        return f"file-{int(wall * 1000):012x}{sha256(made_by.encode()).hexdigest()[:20]}"

    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        """Write a file, all of it or none."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                target.writelines(parts)
                target.flush()
                os.fsync(target.fileno())
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def find(self, tenant: str, file_id: str) -> StoredFile:
        """A tenant's file. Raises `UnknownFile`."""
        chosen = select(files).where(files.c.id == file_id, files.c.tenant == tenant)
        with self._database.engine.connect() as connection:
            row = connection.execute(chosen).mappings().one_or_none()
        if row is None:
            raise UnknownFile(file_id)
        return _stored(row)

    def page(self, tenant: str, purpose: str | None, after: str, limit: int, *, newest_first: bool) -> list[StoredFile]:
        """A tenant's files, from the one behind `after`."""
        order = files.c.id.desc() if newest_first else files.c.id
        chosen = select(files).where(files.c.tenant == tenant).order_by(order).limit(limit)
        if purpose is not None:
            chosen = chosen.where(files.c.purpose == purpose)
        if after:
            chosen = chosen.where(files.c.id < after if newest_first else files.c.id > after)
        with self._database.engine.connect() as connection:
            return [_stored(row) for row in connection.execute(chosen).mappings()]

    def remove(self, tenant: str, file_id: str) -> None:
        """Remove a tenant's file. Raises `UnknownFile` or `FileInUse`."""
        used = select(batches.c.id).where(batches.c.input_file == file_id, batches.c.status.in_(ACTIVE))
        with self._database.engine.begin() as connection:
            gone = delete(files).where(files.c.id == file_id, files.c.tenant == tenant, ~used.exists())
            removed = connection.execute(gone).rowcount
        if not removed:
            self.find(tenant, file_id)
            raise FileInUse(file_id)
        self.path(tenant, file_id).unlink(missing_ok=True)

    def sweep(self, wall: float) -> None:
        """Remove the files whose time is over, and what is left of writing that was cut short."""
        if not self.root.is_dir():
            return
        used = select(batches.c.input_file).where(batches.c.status.in_(ACTIVE))
        with self._database.engine.begin() as connection:
            connection.execute(delete(files).where(files.c.expires_at <= wall, files.c.id.not_in(used)))
            active = set(connection.execute(select(batches.c.id).where(batches.c.status.in_(ACTIVE))).scalars())
        for place in self.root.iterdir():
            old = {path.name: path for path in place.iterdir() if _is_older(path, wall - DAY_S)}
            for name in old.keys() - (active if place.name == "batches" else self._known(old)):
                _remove(old[name])

    def _known(self, names: Iterable[str]) -> set[str]:
        """Which of these files have a row."""
        found: set[str] = set()
        asked = list(names)
        with self._database.engine.connect() as connection:
            for start in range(0, len(asked), 500):
                some = select(files.c.id).where(files.c.id.in_(asked[start : start + 500]))
                found.update(connection.execute(some).scalars())
        return found


def _stored(row: Mapping[Any, Any]) -> StoredFile:
    return StoredFile(**row)


def _is_older(path: Path, wall: float) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime < wall
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
