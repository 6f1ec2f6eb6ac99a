"""Rows as a table for people, as CSV or as JSON."""

import csv
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

_WIDE = 10_000  # columns: a figure that is cut off is a wrong figure


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"


AsFormat = Annotated[Format, typer.Option("--format", help="table, csv or json.")]


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
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=_WIDE).print(table)


def cell(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, dict):
        return json.dumps(value)
    return "" if value is None else str(value)
