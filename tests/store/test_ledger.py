"""The usage ledger: every request once, whatever fails on the way. On SQLite and on PostgreSQL."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from time import time
from typing import Any

import pytest

from forebay.policy.auth import Principal
from forebay.policy.prices import Price
from forebay.policy.usage import Counts
from forebay.store.database import Database
from forebay.store.ledger import Ledger, NoSpool, open_ledger
from forebay.store.spool import open_spool, orphans
from forebay.store.usage import Question, Sum, sums
from forebay.wire.usage import Usage
from tests.store.databases import made, settings_for
from tests.waiting import until

ACME, OTHER = Principal("acme", "key-1"), Principal("other", "key-2")


def today() -> date:
    return datetime.now(UTC).date()


def ledger_in(database: Database, root: Path, most_bytes: int = 1 << 20) -> Ledger:
    return Ledger(database, open_spool(root, most_bytes), flush_s=0.1, keep_s=86_400.0)


def use(ledger: Ledger, times: int = 1, principal: Principal = ACME, model: str = "m") -> None:
    for _ in range(times):
        ledger.tally.add(principal, model, Usage(10, 5, 2), 0, failed=False, replayed=False)


def requests(database: Database) -> int:
    return sum(line.counts.requests for line in sums(database, Question(by=()), {}))


def left_in(root: Path, pattern: str) -> int:
    return len(list(root.glob(pattern)))


@asynccontextmanager
async def running(ledger: Ledger) -> Any:
    ledger.start()
    handing = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        handing.cancel()
        await ledger.close()


async def test_what_is_used_is_summed_by_day_tenant_key_and_model(database: Database, tmp_path: Path) -> None:
    async with running(ledger_in(database, tmp_path)) as ledger:
        use(ledger, 3)
        await until(lambda: requests(database) == 3)
        use(ledger, 2, OTHER)
        ledger.tally.add(ACME, "m", None, 7, failed=False, replayed=False)
        ledger.tally.add(ACME, "", None, 0, failed=True, replayed=False)
    found = sums(database, Question(by=("day", "tenant", "key", "model")), {})
    assert found == [
        Sum({"day": today(), "tenant": "acme", "key": "key-1", "model": ""}, Counts(1, 1)),
        Sum({"day": today(), "tenant": "acme", "key": "key-1", "model": "m"}, Counts(4, 0, 30, 6, 22, 7)),
        Sum({"day": today(), "tenant": "other", "key": "key-2", "model": "m"}, Counts(2, 0, 20, 4, 10)),
    ]
    assert left_in(tmp_path, "[0-9a-f]*/") == 0


async def test_sums_are_asked_for_by_any_dimension_filtered_and_page_by_page(
    database: Database, tmp_path: Path
) -> None:
    async with running(ledger_in(database, tmp_path)) as ledger:
        for model in ("a", "b", "c"):
            use(ledger, 2, ACME, model)
            use(ledger, 1, OTHER, model)
    assert [line.of for line in sums(database, Question(by=("tenant",)), {})] == [
        {"tenant": "acme"},
        {"tenant": "other"},
    ]
    assert [line.counts.requests for line in sums(database, Question(by=()), {})] == [9]
    first = sums(database, Question(by=("model", "tenant")), {}, limit=2)
    rest = sums(database, Question(by=("model", "tenant")), {}, after=list(first[-1].of.values()))
    assert [tuple(line.of.values()) for line in first + rest] == [
        (model, tenant) for model in ("a", "b", "c") for tenant in ("acme", "other")
    ]
    for asked, count in (
        (Question(tenant="acme"), 6),
        (Question(key="key-2", model="a"), 1),
        (Question(since=date(2000, 1, 1), until=date(2000, 1, 2)), 0),
        (Question(since=today(), until=today()), 9),
    ):
        assert sum(line.counts.requests for line in sums(database, asked, {})) == count, asked


async def test_costs_are_exact_and_only_where_there_is_a_price(database: Database, tmp_path: Path) -> None:
    prices = {"m": Price(prompt=Decimal("0.1"), completion=Decimal("0.3"), cached_prompt=Decimal("0.05"))}
    async with running(ledger_in(database, tmp_path)) as ledger:
        use(ledger, 3)
        use(ledger, 1, OTHER, "unpriced")
    by_tenant = {line.of["tenant"]: line.cost for line in sums(database, Question(by=("tenant",)), prices)}
    assert by_tenant == {"acme": Decimal("0.0000072"), "other": None}
    (total,) = sums(database, Question(by=()), prices)
    assert total.cost == Decimal("0.0000072")


async def test_postgresql_away_and_back_loses_nothing(
    postgres: str, cut_postgres: Callable[[bool], None], tmp_path: Path
) -> None:
    database = made(postgres)
    async with running(ledger_in(database, tmp_path)) as ledger:
        use(ledger)
        await until(lambda: requests(database) == 1)
        cut_postgres(True)
        for _ in range(5):
            use(ledger)
            ledger.hand_over()
        await until(lambda: ledger.failed_to_upload > 0 and ledger.spool.waiting_bytes > 0)
        cut_postgres(False)
        await until(lambda: requests(database) == 6)
        await until(lambda: ledger.spool.waiting_bytes == 0)
        assert ledger.dropped == 0
    database.close()


async def test_a_locked_sqlite_file_holds_nobody_up_and_loses_nothing(tmp_path: Path) -> None:
    database = made(f"sqlite:///{tmp_path}/forebay.db")
    other = sqlite3.connect(tmp_path / "forebay.db", isolation_level=None)
    async with running(ledger_in(database, tmp_path / "spool")) as ledger:
        other.execute("BEGIN EXCLUSIVE")
        for number in range(5):
            use(ledger)
            await until(lambda number=number: left_in(tmp_path, "spool/*/*.json") > number)  # type: ignore[misc]
        other.execute("ROLLBACK")
        await until(lambda: requests(database) == 5)
    other.close()
    database.close()


async def test_a_full_database_is_waited_for(tmp_path: Path) -> None:
    database = made(f"sqlite:///{tmp_path}/forebay.db")
    with database.engine.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    async with running(ledger_in(database, tmp_path / "spool")) as ledger:
        for number in range(200):  # more than fits
            use(ledger, model=f"{number:0100}")
        await until(lambda: ledger.failed_to_upload > 0)
        assert ledger.spool.waiting_bytes > 0
        with database.engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        await until(lambda: requests(database) == 200)
    database.close()


async def test_a_full_spool_leaves_usage_in_memory(postgres: str, tmp_path: Path) -> None:
    database = made(postgres)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE usage_writers IN ACCESS EXCLUSIVE MODE")
        async with running(ledger_in(database, tmp_path, most_bytes=400)) as ledger:
            for number in range(10):
                use(ledger, model=f"{number:030}")
                ledger.hand_over()
            await until(lambda: ledger.failed_to_keep > 0)
            connection.rollback()
            await until(lambda: ledger.spool.waiting_bytes == 0)
            use(ledger)
            await until(lambda: requests(database) == 11)
            assert ledger.dropped == 0
    database.close()


async def test_a_spool_that_somebody_removes_is_made_again(database: Database, tmp_path: Path) -> None:
    async with running(ledger_in(database, tmp_path / "spool")) as ledger:
        use(ledger)
        await until(lambda: requests(database) == 1)
        shutil.rmtree(tmp_path / "spool")
        use(ledger)
        await until(lambda: requests(database) == 2)
        assert ledger.failed_to_keep == 0
        assert [other.writer for other in orphans(tmp_path / "spool")] == []  # it is locked again


async def test_two_gateways_add_to_the_same_entries(database: Database, tmp_path: Path) -> None:
    async with (
        running(ledger_in(database, tmp_path)) as one,
        running(ledger_in(database, tmp_path)) as two,
    ):
        for _ in range(20):
            for ledger in (one, two):
                use(ledger, 1, ACME)
                use(ledger, 1, OTHER)
                ledger.hand_over()
            await asyncio.sleep(0)
    assert requests(database) == 80


async def test_what_a_dead_writer_left_behind_is_brought_and_a_living_ones_is_not(
    database: Database, tmp_path: Path
) -> None:
    dead, living = open_spool(tmp_path, 1000), open_spool(tmp_path, 1000)
    entries = {(today().isoformat(), "acme", "key-1", "m"): Counts(4)}
    dead.put(entries, time())
    living.put(entries, time())
    dead.close()
    async with running(ledger_in(database, tmp_path)):
        await until(lambda: requests(database) == 4)
        await until(lambda: not (tmp_path / dead.writer).exists())
    assert len(living.waiting()) == 1
    living.close()


async def test_a_batch_too_old_or_unreadable_is_in_nobodys_way(database: Database, tmp_path: Path) -> None:
    dead = open_spool(tmp_path, 1000)
    dead.put({(today().isoformat(), "acme", "key-1", "m"): Counts(4)}, time() - 2 * 86_400)
    dead.put({(today().isoformat(), "acme", "key-1", "m"): Counts(2)}, time())
    dead.put({(today().isoformat(), "acme", "key-1", "m"): Counts(10**30)}, time())
    (tmp_path / dead.writer / "000000000009.json").write_bytes(b'{"at": 1.0, "ent')
    dead.close()
    async with running(ledger_in(database, tmp_path)) as ledger:
        await until(lambda: not (tmp_path / dead.writer).exists())
        assert ledger.dropped == 4
    assert requests(database) == 2
    assert left_in(tmp_path, "refused-*.json") == 2


def test_no_place_for_the_spool_is_said_at_the_start(database: Database, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpool, match="usage_spool_dir"):
        open_ledger(settings_for(database_url, usage_spool_dir=tmp_path / "file"), database)


def test_two_databases_never_share_a_spool(tmp_path: Path) -> None:
    """Else what was spooled for one would end in the other."""
    roots = set()
    for name in ("one", "two"):
        database = made(f"sqlite:///{tmp_path}/{name}.db")
        for _ in range(2):
            ledger = open_ledger(settings_for("sqlite:///x", usage_spool_dir=tmp_path), database)
            roots.add(ledger.spool.root)
            ledger.spool.close()
        database.close()
    assert len(roots) == 2
