"""`forebay usage` and `forebay audit`: what was used, and what administrators did. Both read the database itself."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Annotated, cast

import typer
from sqlalchemy.exc import SQLAlchemyError

from forebay.cli.options import EXIT_USAGE, Config, fail
from forebay.cli.rows import AsFormat, Format, print_rows
from forebay.cli.settings_options import named_settings
from forebay.config.settings import Settings
from forebay.policy.usage import FIELDS
from forebay.store.audit import PAGE, AuditLog, Deed
from forebay.store.database import Database, DatabaseError, open_database, why
from forebay.store.usage import COLUMNS, Dimension, Question, sums

Since = Annotated[str | None, typer.Option(help="The first day (UTC): 2030-01-31, or today.")]
Until = Annotated[str | None, typer.Option(help="The last day, included.")]


def usage(
    by: Annotated[
        list[str] | None, typer.Option(help="day, tenant, key or model; repeat. Tenant, key and model by default.")
    ] = None,
    since: Since = None,
    until: Until = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key's, by its id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    how: AsFormat = Format.table,
    config: Config = None,
) -> None:
    """Show what was used, and what it costs where `prices` says so:

    forebay usage --since 2030-01-01 --until 2030-01-31 --by tenant --by model --format csv
    """
    dimensions = _dimensions(by)
    asked = Question(by=dimensions, since=_day(since), until=_day(until), tenant=tenant, key=key, model=model)
    with _opened(config) as (settings, database):
        found = sums(database, asked, settings.prices)
        columns = [*dimensions, *FIELDS, *(["cost"] if settings.prices else [])]
    print_rows([line.fields for line in found], columns, how)


def audit(
    actor: Annotated[str | None, typer.Option(help="Only what this key did, by its id.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, such as key.created.")] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to this key or tenant.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="At most so many, the latest.", min=1, max=1_000_000)] = PAGE,
    how: AsFormat = Format.table,
    config: Config = None,
) -> None:
    """Show what administrators did, the latest first:

    forebay audit --since today --action key.created
    """
    first, last = _day(since), _day(until)
    with _opened(config) as (_, database):
        found = AuditLog(database).page(actor=actor, action=action, target=target, since=first, until=last, limit=limit)
    print_rows([deed.model_dump(mode="json") for deed in found], list(Deed.model_fields), how)


def _dimensions(by: list[str] | None) -> tuple[Dimension, ...]:
    named = tuple(dict.fromkeys(by)) if by else Question().by
    if unknown := [name for name in named if name not in COLUMNS]:
        fail(f"by: {unknown[0]!r} is none of {', '.join(COLUMNS)}", EXIT_USAGE)
    return cast("tuple[Dimension, ...]", named)


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    if text == "today":
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        fail(f"{text!r} is no day such as 2030-01-31, nor 'today'", EXIT_USAGE)


@contextlib.contextmanager
def _opened(config: Config) -> Iterator[tuple[Settings, Database]]:
    """The settings and the database that they name; ends the process with one line where it cannot be used."""
    settings = named_settings(config)
    try:
        database = open_database(settings)
    except DatabaseError as wrong:
        fail(f"database: {wrong}")
    try:
        yield settings, database
    except SQLAlchemyError as failure:
        fail(f"database: {why(failure)}")
    finally:
        database.close()
