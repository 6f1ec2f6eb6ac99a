"""`forebay usage` and `forebay audit`: their three formats, and what they refuse."""

import csv
import io
import json
from pathlib import Path
from time import time

import pytest

from forebay.policy.usage import FIELDS, Counts
from forebay.store import usage
from forebay.store.spool import Batch
from tests.store.databases import made
from tests.store.test_cli import forebay

PRICED = """
[prices."m"]
prompt = 0.1
completion = "0.3"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With a ledger of two days in its database."""
    database = made(f"sqlite:///{tmp_path}/forebay.db")
    entries = [
        (("2130-01-01", "acme", "key-1", "m"), Counts(2, 1, 10, 0, 20)),
        (("2130-01-02", "acme", "key-1", "m"), Counts(1, 0, 5, 5, 1_000_000)),
        (("2130-01-02", "other", "key-2", "[n]"), Counts(4)),
    ]
    with database.engine.begin() as connection:
        usage.add(connection, "writer", [(1, Batch(time(), entries))])
    database.close()
    return tmp_path


def test_the_three_formats_tell_the_same(home: Path) -> None:
    (home / "forebay.toml").write_text(PRICED)
    words = ("usage", "--by", "tenant", "--by", "model", "--until", "2130-01-02")
    columns = ["tenant", "model", *FIELDS, "cost"]
    rows = json.loads(forebay(home, *words, "--format", "json"))
    assert [list(row) for row in rows] == [columns, columns]
    assert rows[0] == dict(zip(columns, ["acme", "m", 3, 1, 15, 5, 1_000_020, 0, 0, "0.3000075"], strict=True))
    assert (rows[1]["requests"], rows[1]["cost"]) == (4, None)
    read = list(csv.DictReader(io.StringIO(forebay(home, *words, "--format", "csv"))))
    assert read == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    table = [line.split() for line in forebay(home, *words, COLUMNS="40").splitlines()]
    assert table == [columns, *([value for value in row.values() if value] for row in read)]


def test_days_and_filters(home: Path) -> None:
    def requests(*words: str) -> list[int]:
        return [row["requests"] for row in json.loads(forebay(home, "usage", "--format", "json", *words))]

    assert requests("--by", "day") == [2, 5]
    assert requests("--by", "day", "--since", "2130-01-02") == [5]
    assert requests("--tenant", "acme", "--until", "2130-01-01") == [2]
    assert requests("--key", "key-2") == requests("--model", "[n]") == [4]
    assert requests("--since", "today", "--until", "today") == []


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--by", "hour"), "by: 'hour'"), (("--since", "yesterday"), "no day"), (("--until", "2130-02-30"), "no day")],
)
def test_what_it_does_not_know_is_named(words: tuple[str, ...], told: str, home: Path) -> None:
    assert told in forebay(home, "usage", *words, status=2)


@pytest.mark.parametrize(
    "price",
    ["prompt = -1\ncompletion = 1", "prompt = nan\ncompletion = 1", "prompt = 1", "prompt = 1\ncompletion = 'x'"],
)
def test_a_wrong_price_is_refused_by_its_key(price: str, home: Path) -> None:
    (home / "forebay.toml").write_text(f"[prices.m]\n{price}\n")
    assert "prices: " in forebay(home, "usage", status=2)


def test_prices_come_from_the_environment_too(home: Path) -> None:
    prices = json.dumps({"m": {"prompt": 1, "completion": 0, "cached_prompt": 0}})
    (row,) = json.loads(
        forebay(home, "usage", "--tenant", "acme", "--format", "json", FOREBAY_PRICES=prices),
    )
    assert row["cost"] == "0.00001"


def test_what_was_done_at_the_command_line_is_told_by_forebay_audit(home: Path) -> None:
    made_key = json.loads(forebay(home, "keys", "create", "--tenant", "acme", "--json"))
    (deed,) = json.loads(forebay(home, "audit", "--since", "today", "--format", "json"))
    assert (deed["action"], deed["target"], deed["details"]["tenant"]) == ("key.created", made_key["id"], "acme")
    assert deed["actor"].startswith("command line: ")
    assert forebay(home, "audit", "--action", "key.revoked", "--format", "csv").count("\n") == 1
    assert made_key["id"] in forebay(home, "audit")
