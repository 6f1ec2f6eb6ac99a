"""Whatever becomes of the sink, nobody waits for it, and what was lost of the log is said in it."""

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from forebay.telemetry import logging as telemetry_logging
from forebay.telemetry import sinks
from forebay.telemetry.logging import LineHandler, LogWriter
from forebay.telemetry.sinks import LogFile


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second takes a moment."""
    monkeypatch.setattr(sinks, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(telemetry_logging, "TRY_AGAIN_S", 0.01)
    monkeypatch.setattr(telemetry_logging, "FLUSH_EVERY_S", 0.01)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def writing(sink: sinks.Sink | int) -> Iterator[LogWriter]:
    writer = LogWriter(sink, text=False)
    writer.start()
    yield writer
    writer.stop()


def say(writer: LogWriter, number: int, size: int = 10) -> None:
    writer.write({"time": 0.0, "level": "info", "message": "m" * size, "number": number})


def numbers(path: Path) -> list[int]:
    """Those of the lines in a file, which has whole lines only."""
    text = ""
    with suppress(FileNotFoundError):  # it is being put aside
        text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [line["number"] for line in map(json.loads, text.splitlines()) if "number" in line]


def wait_for(writer: LogWriter, path: Path, number: int) -> None:
    say(writer, number)
    until(lambda: number in numbers(path))


def test_a_file_is_put_aside_when_it_is_large_and_the_oldest_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with writing(LogFile(path, max_bytes=150, backups=2)) as writer:
        for number in range(9):
            wait_for(writer, path, number)
    assert [numbers(tmp_path / name) for name in ("log", "log.1", "log.2")] == [[8], [6, 7], [4, 5]]
    assert not (tmp_path / "log.3").exists()
    assert all(one.stat().st_size <= 150 for one in tmp_path.iterdir())
    assert path.stat().st_mode & 0o777 == 0o640


def test_without_backups_it_just_begins_anew_and_without_a_size_it_grows(tmp_path: Path) -> None:
    for name, most, kept in (("small", 150, [4]), ("grows", 0, [0, 1, 2, 3, 4])):
        with writing(LogFile(tmp_path / name, max_bytes=most)) as writer:
            for number in range(5):
                wait_for(writer, tmp_path / name, number)
        assert numbers(tmp_path / name) == kept
    assert sorted(os.listdir(tmp_path)) == ["grows", "small"]


def test_a_file_that_was_moved_deleted_or_lost_its_directory_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "log"
    with writing(LogFile(path)) as writer:
        wait_for(writer, path, 0)
        path.rename(path.with_suffix(".moved"))
        wait_for(writer, path, 1)
        path.unlink()
        wait_for(writer, path, 2)
        path.with_suffix(".moved").unlink()
        path.unlink()
        path.parent.rmdir()
        wait_for(writer, path, 3)
    assert numbers(path) == [3]
    assert writer.dropped == 0


def test_a_moved_file_is_made_again_at_once_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "LOOK_EVERY_S", 3600)
    path, moved = tmp_path / "log", tmp_path / "moved"
    with writing(LogFile(path)) as writer:
        wait_for(writer, path, 0)
        path.rename(moved)
        wait_for(writer, moved, 1)
        writer.reopen()
        wait_for(writer, path, 2)
    assert (numbers(moved), numbers(path)) == ([0, 1], [2])


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with writing(LogFile(tmp_path / "link", max_bytes=100, backups=1)) as writer:
        for number in range(3):
            wait_for(writer, tmp_path / "link", number)
    assert sorted(os.listdir(tmp_path)) == ["link", "log", "log.1"]
    assert (tmp_path / "link").is_symlink()


def test_a_file_that_cannot_be_put_aside_grows_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sinks.os, "replace", refuse)
    path = tmp_path / "log"
    with writing(LogFile(path, max_bytes=60, backups=1)) as writer:
        for number in range(4):
            wait_for(writer, path, number)
    assert numbers(path) == [0, 1, 2, 3]
    assert [record.message for record in caplog.records] == ["the log file cannot be put aside, and grows"]


class FullDisk(LogFile):
    """Takes `room` bytes, then none until it is told."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path)
        self.room = room

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(data[: self.room])
        self.room -= written
        return written


def test_lines_wait_while_the_disk_is_full_and_how_many_were_dropped_is_said_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_logging, "MAX_QUEUED_LINES", 10)
    disk = FullDisk(tmp_path / "log", room=30)
    with writing(disk) as writer:
        say(writer, 0)
        until(lambda: disk.room == 0)
        for number in range(1, 16):
            say(writer, number)
        assert writer.dropped == 5
        disk.room = 10**6
        until(lambda: 10 in numbers(disk._path) if disk._path.read_text().endswith("\n") else False)
        say(writer, 99)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (told,) = [line for line in lines if "number" not in line]
    assert (told["message"], told["dropped"], told["level"]) == ("log lines were dropped", 5, "warning")
    assert told["why"] == "No space left on device"
    assert [line["number"] for line in lines if "number" in line] == [*range(11), 99]


def test_a_line_that_was_cut_when_its_file_went_is_whole_in_the_next(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path / "log", room=30)
    with writing(disk) as writer:
        say(writer, 0)
        until(lambda: disk.room == 0)
        (tmp_path / "log").rename(tmp_path / "moved")
        disk.room = 10**6
        wait_for(writer, tmp_path / "log", 1)
    assert numbers(tmp_path / "log") == [0, 1]


def test_a_pipe_that_nobody_reads_holds_up_neither_the_start_nor_a_line_nor_the_end(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    before = time.monotonic()
    writer = LogWriter(LogFile(path, max_bytes=100, backups=1), text=False)
    writer.start()
    for number in range(3000):
        say(writer, number, size=100)
    assert time.monotonic() - before < 10
    with path.open("rb") as reader:
        assert json.loads(reader.readline())["number"] == 0
    writer.stop(within_s=0.2)
    assert time.monotonic() - before < 20
    assert path.is_fifo()


def test_a_full_pipe_holds_up_nobody_and_goes_on_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry_logging, "MAX_QUEUED_LINES", 100)
    theirs, ours = os.pipe()  # a blocking one, as standard error is
    with writing(ours) as writer:
        slowest = 0.0
        for number in range(5000):
            before = time.monotonic()
            say(writer, number, size=100)
            slowest = max(slowest, time.monotonic() - before)
        assert slowest < 5, "a write to the pipe would take for ever"
        assert writer.dropped > 0
        read: list[bytes] = []

        def drain() -> None:
            with os.fdopen(theirs, "rb") as pipe:
                read.extend(pipe)

        reading = threading.Thread(target=drain)
        reading.start()
        until(lambda: any(b"log lines were dropped" in line for line in read))
    os.close(ours)
    reading.join(5)
    lines = [json.loads(line) for line in read]
    told = sum(line["dropped"] for line in lines if "dropped" in line)
    assert told == writer.dropped
    assert len([line for line in lines if "number" in line]) + told == 5000


def test_a_pipe_whose_reader_has_gone_costs_lines_and_ends_nothing() -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    with writing(ours) as writer:
        say(writer, 0)
        until(lambda: writer.dropped == 1)
        say(writer, 1)
        until(lambda: writer.dropped == 2)
    os.close(ours)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


def test_a_record_that_cannot_be_a_line_fails_nobody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with writing(LogFile(path)) as writer:
        handler = LineHandler(writer)
        handler.emit(logging.makeLogRecord({"msg": "%d of %d", "args": (1,), "levelname": "INFO", "name": "n"}))
        handler.emit(logging.makeLogRecord({"msg": "m", "levelname": "INFO", "name": "n", "field": Unprintable()}))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["message"], line["why"]) for line in lines] == [
        ("a log line could not be made", "TypeError"),
        ("a log line could not be made", "RuntimeError"),
    ]
