"""What a batch has written so far, so that no line is lost and none comes twice, however often its gateway is killed.

Each run of a batch (a gateway that has taken it up) appends to a file of its own, `<run>.jsonl`. A line is finished
when it is on disk there, and a file that was cut short within a line ends before it. At the end all runs' files are
joined in the order of the batch's lines; where two runs have the same line, because one was thought dead and was not,
the first one's counts.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from forebay.wire.batch_lines import read_kept


class Place(NamedTuple):
    """Where a finished line is."""

    ok: bool
    file: Path
    at: int


class Journal:
    """One run's. Many append at once; what comes while the disk is busy is written together."""

    def __init__(self, directory: Path, run: int) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(directory / f"{run:08d}.jsonl", flags, 0o600)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._failure: OSError | None = None

    async def append(self, record: bytes) -> None:
        """Return when the record is on disk. Raises OSError, and from then on at once."""
        if self._failure is not None:
            raise self._failure
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((record, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        await written

    async def _write_all(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                if self._failure is None:
                    await asyncio.to_thread(self.write, [record for record, _ in taken])
            except OSError as failure:
                self._failure = failure
            for written in (written for _, written in taken if not written.done()):
                if self._failure is None:
                    written.set_result(None)
                else:
                    written.set_exception(self._failure)
        self._writing = None

    def write(self, records: Iterable[bytes]) -> None:
        """Put records on disk."""
        data = b"".join(records)
        if os.write(self._file, data) != len(data):
            raise OSError("the disk took part of a batch's lines only")
        os.fsync(self._file)

    async def close(self) -> None:
        """Return when what was appended is on disk."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.end()

    def end(self) -> None:
        os.close(self._file)


def finished(directory: Path) -> dict[int, Place]:
    """The finished lines, by their numbers."""
    found: dict[int, Place] = {}
    for path in sorted(directory.glob("*.jsonl")):
        at = 0
        with path.open("rb") as file:
            for text in file:
                if (kept := read_kept(text)) is not None:
                    found.setdefault(kept.number, Place(kept.ok, path, at))
                at += len(text)
    return found


def lines(places: dict[int, Place], *, ok: bool) -> Iterator[bytes]:
    """What was written of the lines that were answered, or of the others, in their order."""
    opened: dict[Path, BinaryIO] = {}
    try:
        for number in sorted(number for number, place in places.items() if place.ok is ok):
            place = places[number]
            file = opened.get(place.file) or opened.setdefault(place.file, place.file.open("rb"))
            file.seek(place.at)
            kept = read_kept(file.readline())
            assert kept is not None
            yield bytes(kept.line) + b"\n"
    finally:
        for file in opened.values():
            file.close()
