"""What a batch has written, whatever became of those who wrote it."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from forebay.store.journal import Journal, finished, lines
from forebay.wire.batch_lines import keep


def record(number: int, who: str, *, ok: bool = True) -> bytes:
    return keep(number, ok, json.dumps({"number": number, "who": who}).encode())


def told(directory: Path, *, ok: bool = True) -> list[tuple[int, str]]:
    return [(one["number"], one["who"]) for one in map(json.loads, lines(finished(directory), ok=ok))]


async def test_what_was_appended_is_there_in_the_order_of_its_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1)
    await asyncio.gather(*(journal.append(record(number, "x", ok=number % 2 == 0)) for number in range(100, 0, -1)))
    await journal.close()
    assert [number for number, _ in told(tmp_path)] == list(range(2, 101, 2))
    assert [number for number, _ in told(tmp_path, ok=False)] == list(range(1, 100, 2))


async def test_a_line_of_two_runs_is_the_firsts_and_one_cut_short_is_none(tmp_path: Path) -> None:
    for run, who, numbers in ((1, "first", (1, 2, 3)), (10, "third", (5, 6)), (2, "second", (3, 4, 5))):
        journal = Journal(tmp_path, run)
        for number in numbers:
            await journal.append(record(number, who))
        await journal.close()
    os.truncate(tmp_path / "00000010.jsonl", (tmp_path / "00000010.jsonl").stat().st_size - 1)
    expected = [(1, "first"), (2, "first"), (3, "first"), (4, "second"), (5, "second")]
    assert told(tmp_path) == expected
    with (tmp_path / "00000001.jsonl").open("ab") as late:  # by one that was thought dead
        late.write(record(4, "late") + record(7, "late"))
    assert told(tmp_path) == [*expected[:3], (4, "late"), (5, "second"), (7, "late")]


async def test_a_disk_that_takes_no_more_is_told_to_all_who_wait(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1)
    os.dup2(os.open("/dev/full", os.O_WRONLY), journal._file)
    failures = await asyncio.gather(*(journal.append(record(n, "x")) for n in range(5)), return_exceptions=True)
    assert all(isinstance(one, OSError) for one in failures)
    with pytest.raises(OSError):  # noqa: PT011
        await asyncio.wait_for(journal.append(record(9, "x")), 30)
    await journal.close()
