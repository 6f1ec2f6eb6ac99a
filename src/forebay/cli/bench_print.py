"""What `forebay bench` prints for people."""

from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table

from forebay.loadgen.outcome import Outcome
from forebay.loadgen.sweep import best
from forebay.loadgen.words import COLUMNS, NAMES, cells, lines, proposal_lines, rounded, verdicts

_WIDE = 200  # columns: a figure that is cut off is a wrong figure


def print_outcome(outcome: Outcome, *, err: bool = False) -> None:
    """Figures on standard output (or error), what to beware of on standard error."""
    console = Console(width=_WIDE, stderr=err, highlight=False, markup=False)
    console.print(f"{outcome.kind} of {outcome.url}, model {outcome.model}")
    if outcome.stopped:
        console.print("Interrupted: this is what was done until then.")
    if outcome.trials:
        console.print(_table(*verdicts(outcome.trials)))
    if (found := best(outcome.trials)) is not None:
        console.print(f"\nAt the highest rate that meets the objectives, {rounded(found.rate)} requests/s:")
    if outcome.summary is not None:
        for line in lines(outcome.summary):
            console.print(line)
        rows = [[name, *cells(getattr(outcome.summary, field))] for field, name in NAMES.items()]
        console.print(_table(("milliseconds", *COLUMNS), rows, right=True))
    if outcome.proposal is not None:
        console.print("\nWhat to set:")
        for line in proposal_lines(outcome.proposal):
            console.print(line)
    for warning in outcome.warnings:
        typer.secho(f"forebay: {warning}", fg="yellow", err=True)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if right and number else "left")
    for row in rows:
        table.add_row(*row)
    return table
