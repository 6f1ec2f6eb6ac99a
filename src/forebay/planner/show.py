"""A plan on the terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forebay.planner.advice import Proposal
from forebay.planner.commands import as_yaml, chart_values, serve_line
from forebay.planner.plan import Misfit, Plan
from forebay.planner.words import about, count_of, gib, headline, reasons, steps, sums, verdict, warnings

_COLOURS = {"fits": "green", "tight": "yellow", "does_not_fit": "red"}


def show(found: Plan | Misfit, proposed: list[Proposal]) -> None:
    """Print it: the answer first, what to paste last."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold {_COLOURS[verdict(found)]}]{escape(headline(found))}[/]\n")
    for name, value in about(found):
        console.print(f"  {name:13} {escape(value)}")
    if isinstance(found, Plan):
        _show_plan(console, found)
    _list(console, "Look at this", warnings(found))
    _list(console, "What would serve it" if proposed else "", map(_proposal, proposed))
    if isinstance(found, Plan):
        _show_commands(console, found)


def _show_plan(console: Console, plan: Plan) -> None:
    console.print(f"\n[bold]Memory of {'the machine' if plan.ask.device.is_cpu else 'the fullest GPU'}[/]")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    for what, size in (*sums(plan), ("what vLLM may take", plan.memory.budget)):
        table.add_row(f"  {gib(size)}", what)
    console.print(table)
    _list(console, "Why", reasons(plan))


def _show_commands(console: Console, plan: Plan) -> None:
    _list(console, "Run", steps(plan))
    if not list(steps(plan)):
        console.print("\n[bold]Run[/]")
    print(f"\n{serve_line(plan)}\n")
    console.print("[bold]Values for the Helm chart[/]\n")
    print(as_yaml(chart_values(plan)), end="")


def _list(console: Console, title: str, lines: Iterable[str]) -> None:
    found = list(lines)
    if found:
        console.print(f"\n[bold]{title}[/]")
    for line in found:
        console.print(f"  - {escape(line)}")


def _proposal(one: Proposal) -> str:
    plan, shape = one.plan, one.plan.shape
    split = f"tensor {shape.tensor}" + (f" × pipeline {shape.pipeline}" if shape.pipeline > 1 else "")
    copies = f", {shape.replicas} copies" if shape.replicas > 1 else ""
    return f"{one.words}: {count_of(plan.served, 'sequence')}, up to {plan.context:,} tokens ({split}{copies})"
