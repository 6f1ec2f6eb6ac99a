"""The page on reliability leaves no row out, and every test that it names is there."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = {"A": 7, "B": 24, "C": 14, "D": 10, "E": 8, "F": 7}


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if re.match(r"\| [A-F]\d+ \|", line)]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_every_row_is_there_once_with_its_promise_and_a_test_or_what_is_open() -> None:
    wanted = [f"{letter}{number}" for letter, count in ROWS.items() for number in range(1, count + 1)]
    assert [row[0] for row in rows()] == wanted
    for row in rows():
        assert len(row) == 5, row[0]
        assert row[1], row[0]
        assert "`" in row[4] or "**open**" in row[4] or "not promised" in row[4], row[0]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([a-z0-9_/]+\.py)(?:::(test_[a-z0-9_]+))?`", PAGE)
    assert len(named) > 100
    for file, test in named:
        path = ROOT / "tests" / file
        assert path.is_file(), file
        assert not test or f"def {test}(" in path.read_text(), f"{file}::{test}"


def test_the_rows_that_the_page_on_security_names_exist() -> None:
    security = (ROOT / "docs" / "security.md").read_text()
    known = Counter(row[0] for row in rows())
    mentioned = re.findall(r"\b([A-F]\d+)\b", security)
    assert len(mentioned) > 15
    assert [row for row in mentioned if row not in known] == []
