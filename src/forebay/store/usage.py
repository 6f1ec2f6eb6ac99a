"""The usage ledger in the database: batches go in once each, sums come out.

A batch is known by its writer and its number. The transaction that adds it first takes the writer's row, which says
the latest number that is in, and leaves out what is not above it; so a batch may be sent again by whoever does not
know whether it went in. Entries are added in their order, so that two writers never wait for each other in a circle.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import groupby, islice
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Select, case, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from forebay.policy.prices import Price, cost_of
from forebay.policy.usage import FIELDS, Counts, Entries, join
from forebay.store.database import Database
from forebay.store.spool import Batch
from forebay.store.tables import usage, usage_writers

Dimension = Literal["day", "tenant", "key", "model"]
COLUMNS = {"day": usage.c.day, "tenant": usage.c.tenant, "key": usage.c.key_id, "model": usage.c.model}
_AT_ONCE = 1000  # rows fetched
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def add(connection: Connection, writer: str, batches: Iterable[tuple[int, Batch]]) -> None:
    """Take in those of a writer's batches, each with its number, that are not in yet."""
    insert = _INSERT[connection.dialect.name]
    mine = insert(usage_writers).values(writer=writer, number=0)
    mine = mine.on_conflict_do_update(index_elements=["writer"], set_={"writer": writer})
    latest: int = connection.execute(mine.returning(usage_writers.c.number)).scalar_one()
    entries: Entries = {}
    for number, batch in batches:
        if number > latest:
            latest = number
            join(entries, dict(batch.entries))
    if entries:
        connection.execute(_addition(insert(usage)), [_row(*one) for one in sorted(entries.items(), key=_entry)])
        connection.execute(update(usage_writers).where(usage_writers.c.writer == writer).values(number=latest))


def forget(connection: Connection, writer: str) -> None:
    """A writer is gone and has left no batch behind."""
    connection.execute(delete(usage_writers).where(usage_writers.c.writer == writer))


def _entry(item: tuple[Any, Counts]) -> Any:
    return item[0]


def _row(entry: tuple[str, str, str, str], counts: Counts) -> dict[str, Any]:
    day, tenant, key_id, model = entry
    figures = {name: getattr(counts, name) for name in FIELDS}
    return {"day": date.fromisoformat(day), "tenant": tenant, "key_id": key_id, "model": model, **figures}


def _addition(insert: Any) -> Any:
    more = {name: usage.c[name] + insert.excluded[name] for name in FIELDS}
    return insert.on_conflict_do_update(index_elements=list(usage.primary_key), set_=more)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What of the ledger is asked for: days (both included), and one tenant, key or model; summed by some of them."""

    by: Sequence[Dimension] = ("tenant", "key", "model")
    since: date | None = None
    until: date | None = None
    tenant: str | None = None
    key: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Sum:
    """One line of an answer: what it is summed by, the figures, and what they cost where a price is known."""

    of: dict[str, Any]
    counts: Counts
    cost: Decimal | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """All of it, flat."""
        return {**self.of, **msgspec.structs.asdict(self.counts), "cost": self.cost}


def sums(
    database: Database,
    asked: Question,
    prices: Mapping[str, Price],
    after: Sequence[Any] = (),
    limit: int | None = None,
) -> list[Sum]:
    """The ledger's sums in the order of what they are summed by, from the one behind `after`."""
    chosen = _chosen(asked, after)
    with (
        database.engine.connect().execution_options(yield_per=_AT_ONCE) as connection,
        closing(connection.execute(chosen)) as rows,
    ):
        return list(islice(_folded(rows, asked.by, prices), limit))


def spent(database: Database, accounts: Iterable[str], day: date) -> dict[str, tuple[int, int]]:
    """The tokens of a day and of its month, by the accounts of limits (`key:…`, `tenant:…`, `all`) that have any."""
    subjects: dict[str, list[str]] = {}
    for account in accounts:
        kind, _, name = account.partition(":")
        subjects.setdefault(kind, []).append(name)
    found: dict[str, tuple[int, int]] = {}
    with database.engine.connect() as connection:
        for kind, column in (("key", usage.c.key_id), ("tenant", usage.c.tenant)):
            if names := subjects.get(kind):
                chosen = _spent(day, column).where(column.in_(names)).group_by(column)
                found |= {f"{kind}:{name}": (int(a), int(b)) for name, a, b in connection.execute(chosen)}
        if "all" in subjects:
            of_day, of_month = connection.execute(_spent(day)).one()
            found["all"] = int(of_day or 0), int(of_month or 0)
    return found


def _spent(day: date, *by: Any) -> "Select[Any]":
    tokens = usage.c.prompt_tokens + usage.c.completion_tokens
    of_day = func.sum(case((usage.c.day >= day, tokens), else_=0))
    return select(*by, of_day, func.sum(tokens)).where(usage.c.day >= day.replace(day=1))


def _chosen(asked: Question, after: Sequence[Any]) -> "Select[Any]":
    by = [COLUMNS[name] for name in asked.by]
    inner = list(dict.fromkeys([*by, usage.c.model]))  # prices differ by model, so that sums are made in two steps
    figures = [func.sum(usage.c[name]) for name in FIELDS]
    chosen = select(*by, usage.c.model.label("priced"), *figures).group_by(*inner).order_by(*inner)
    for name in ("tenant", "key", "model"):
        if (value := getattr(asked, name)) is not None:
            chosen = chosen.where(COLUMNS[name] == value)
    if asked.since is not None:
        chosen = chosen.where(usage.c.day >= asked.since)
    if asked.until is not None:
        chosen = chosen.where(usage.c.day <= asked.until)
    return chosen.where(tuple_(*by) > tuple_(*after)) if after else chosen


def _folded(rows: Iterable[Any], by: Sequence[Dimension], prices: Mapping[str, Price]) -> Iterator[Sum]:
    width = len(by)
    for of, group in groupby(rows, lambda row: tuple(row[:width])):
        models = {row[width]: Counts(*(int(figure) for figure in row[width + 1 :])) for row in group}
        total = Counts()
        for counts in models.values():
            total.add(counts)
        yield Sum(dict(zip(by, of, strict=True)), total, cost_of(models, prices))
