"""Batches of usage on disk until the database has them: a directory a writer, a file a batch, removed once it is in.

A writer is one run of a gateway. It holds a lock on its directory for as long as it lives, so that a directory which
can be locked is one that a dead writer left behind: whoever finds it takes it over. A batch has the writer's next
number; with it the database knows which it has already.

    <root>/<writer>/000000000042.json    {"at": wall-clock seconds, "entries": [[[day, tenant, key, model], counts], …]}
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from forebay.policy.usage import Counts, Entries, Entry


class Batch(msgspec.Struct):
    """What was used in a while, as it is on disk."""

    at: float
    entries: list[tuple[Entry, Counts]]

    @property
    def requests(self) -> int:
        return sum(counts.requests for _, counts in self.entries)


class SpoolFull(OSError):
    """There is no room for another batch."""


_decoder = msgspec.json.Decoder(Batch)


class Spool:
    """One writer's directory, locked. `put` is one thread's, what takes batches out is another's."""

    def __init__(self, directory: Path, lock: int, most_bytes: int = 0) -> None:
        self.root = directory.parent
        self.writer = directory.name
        self._directory = directory
        self._lock = lock
        self._most_bytes = most_bytes
        self._number = 0
        self._bytes_in = self._bytes_out = 0  # each counted by one thread only

    def __repr__(self) -> str:
        return f"<Spool {self.writer} {self.waiting_bytes} bytes>"

    @property
    def waiting_bytes(self) -> int:
        return max(self._bytes_in - self._bytes_out, 0)

    def put(self, entries: Entries, wall: float) -> None:
        """Keep a batch; when this returns it is on disk. Raises OSError, and then nothing of it is kept."""
        data = msgspec.json.encode(Batch(wall, list(entries.items())))
        if self.waiting_bytes and self.waiting_bytes + len(data) > self._most_bytes:  # an empty one takes any batch
            raise SpoolFull("the spool is full")
        name = f"{self._number + 1:012d}"
        unfinished = self._directory / f".{name}"
        try:
            if not self._directory.exists():  # somebody has removed it; what comes need not be lost too
                lock, self._lock = self._lock, _make(self.root, self.writer)
                os.close(lock)
            _write(unfinished, data)
            unfinished.rename(self._directory / f"{name}.json")
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        self._number += 1
        self._bytes_in += len(data)

    def waiting(self) -> list[Path]:
        """The batches, the oldest first."""
        return sorted(path for path in self._directory.glob("*.json") if not path.name.startswith("."))

    def remove(self, path: Path) -> None:
        """The database has a batch, or nobody is to have it."""
        size = path.stat().st_size
        path.unlink()
        self._bytes_out += size

    def set_aside(self, path: Path) -> Path:
        """Put a batch that cannot be used where it is in nobody's way, for a person to look at; return where."""
        place = self.root / f"refused-{self.writer}-{path.name}"
        self._bytes_out += path.stat().st_size
        return path.rename(place)

    def discard(self) -> None:
        """Remove the directory, in which no batch is left."""
        with contextlib.suppress(FileNotFoundError):
            for unfinished in self._directory.iterdir():
                unfinished.unlink()
            self._directory.rmdir()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)


def read(path: Path) -> Batch:
    """A batch. Raises OSError, or ValueError where it is none."""
    return _decoder.decode(path.read_bytes())


def open_spool(root: Path, most_bytes: int) -> Spool:
    """A new writer's. Raises OSError."""
    writer = secrets.token_hex(8)
    lock = _make(root, writer)
    return Spool(root / writer, lock, most_bytes)


def orphans(root: Path) -> Iterator[Spool]:
    """The spools of writers that are dead, each locked by us now; close each."""
    for directory in sorted(root.glob("[0-9a-f]*")):
        lock = _locked(directory)
        if lock is not None:
            yield Spool(directory, lock)


def _make(root: Path, writer: str) -> int:
    """Make a writer's directory; return the descriptor that holds its lock. Raises OSError."""
    root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    root.mkdir(exist_ok=True, mode=0o700)
    unlocked = root / f".{writer}"  # nobody takes it over before it is locked
    unlocked.mkdir(exist_ok=True, mode=0o700)
    lock = _locked(unlocked)
    if lock is None:
        raise OSError(f"{root} is on a file system that has no locks")
    unlocked.rename(root / writer)
    return lock


def _locked(directory: Path) -> int | None:
    """A descriptor that holds the directory's lock; None where somebody else does, or it is gone."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _write(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        if file.write(data) != len(data):
            raise OSError("the disk took part of a batch only")
        os.fsync(file.fileno())
