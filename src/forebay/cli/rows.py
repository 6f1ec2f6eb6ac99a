"""Rows as a table for people, as CSV or as JSON; and the database they come from."""

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from forebay.cli.db import named_settings
from forebay.cli.options import fail
from forebay.config.settings import Settings
from forebay.store.database import Database, DatabaseError, open_database, why

_WIDE = 10_000  # columns: a figure that is cut off is a wrong figure


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"


AsFormat = Annotated[Format, typer.Option("--format", help="table, csv or json.")]


@contextlib.contextmanager
def opened(config: Path | None) -> Iterator[tuple[Settings, Database]]:
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


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], how: Format) -> None:
    """Print what the rows have in the columns. In JSON numbers stay numbers, and money is text."""
    if how is Format.json:
        chosen = [{name: row[name] for name in columns} for row in rows]
        typer.echo(json.dumps(chosen, default=str))
    elif how is Format.csv:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        lines.writerow(columns)
        lines.writerows([cell(row[name]) for name in columns] for row in rows)
    else:
        print_table([[cell(row[name]) for name in columns] for row in rows], *columns)


def print_table(rows: list[list[str]], *columns: str) -> None:
    """Print a table as wide as it is: nothing is cut off."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=_WIDE).print(table)


def cell(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, dict):
        return json.dumps(value)
    return "" if value is None else str(value)
