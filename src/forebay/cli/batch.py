"""`forebay batch`: files of requests."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forebay.cli.calling import DEFAULT_URL, KEY_NAME, Url, caller
from forebay.cli.options import EXIT_USAGE, fail

if TYPE_CHECKING:
    from forebay.offline import Summary

INTERRUPTED = 130
MOST_SHOWN = 5
batch = typer.Typer(help="Files of requests (OpenAI's batch format).", no_args_is_help=True)


@batch.callback()
def about() -> None:
    """Files of requests (OpenAI's batch format)."""


@batch.command()
def run(
    source: Annotated[Path, typer.Argument(metavar="IN.JSONL", help="The requests, a line each.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where answers go; what is there is not asked again.")],
    url: Url = DEFAULT_URL,
    key_from_env: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable that the key is in.")
    ] = KEY_NAME,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests under way at once, at most.")] = 16,
    model: Annotated[str | None, typer.Option(help="Ask this model, whatever the lines name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Ask a file of requests, and write the answers down as they come:

    forebay batch run in.jsonl -o out.jsonl --url http://127.0.0.1:8000

    A line is {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {…}}. Interrupt it as you
    like: the same command goes on where it was. Failed lines are in out.errors.jsonl, and asked again the next time.
    Ends with status 0 where all lines are answered, 1 where some failed, 2 where nothing could be asked.
    """
    from forebay.offline import Asking, Files, Hopeless, OfflineRun, Summary

    if key_from_env != KEY_NAME and not os.environ.get(key_from_env):
        fail(f"key-from-env: {key_from_env} is not set", EXIT_USAGE)
    asking = caller(url, None, key_name=key_from_env)
    summary = Summary(lines=_checked(source))
    files = Files(source, output)
    try:
        with files.open_output() as answers, files.errors.open("wb") as errors:
            summary.skipped = len(files.finished)
            with _progress(summary, shown=not as_json) as told:
                OfflineRun(files, Asking(asking.url, asking.key, concurrency, model), summary, told).run(
                    answers, errors
                )
    except KeyboardInterrupt:
        typer.echo("forebay: interrupted; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Hopeless as wrong:
        fail(f"{wrong}{_so_far(summary)}", EXIT_USAGE)
    except OSError as wrong:
        fail(f"{wrong.filename or output}: {wrong.strerror or wrong}", EXIT_USAGE)
    finally:
        if files.errors.is_file() and files.errors.stat().st_size == 0:
            files.errors.unlink()
    if as_json:
        errors_at = str(files.errors) if summary.failed else None
        typer.echo(json.dumps({**asdict(summary), "output": str(output), "errors": errors_at}))
    else:
        _say(summary, files.errors)
    if summary.failed:
        raise typer.Exit(1)


def _checked(source: Path) -> int:
    """How many requests there are; ends the process where one is wrong, before any is asked."""
    from forebay.store.batch_input import check

    try:
        total, errors = check(source)
    except OSError as wrong:
        fail(f"{source}: {wrong.strerror}", EXIT_USAGE)
    if errors:
        told = [f"{source}:{error['line'] or 1}: {error['message']}" for error in errors[:MOST_SHOWN]]
        more = [f"{source}: … and more"] if len(errors) > MOST_SHOWN else []
        fail("\n".join(told + more), EXIT_USAGE)
    return total


@contextlib.contextmanager
def _progress(summary: "Summary", *, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where that is a terminal; yields what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("", total=summary.lines, completed=summary.skipped)

        def told() -> None:
            done = summary.skipped + summary.completed + summary.failed
            progress.update(task, completed=done, description=f"{summary.failed} failed" if summary.failed else "")

        yield told


def _so_far(summary: "Summary") -> str:
    done = summary.skipped + summary.completed
    return f"\n{done:,} of {summary.lines:,} lines are answered; the same command goes on from there" if done else ""


def _say(summary: "Summary", errors: Path) -> None:
    parts = [f"{summary.completed:,} answered"]
    parts += [f"{summary.skipped:,} were there"] if summary.skipped else []
    parts += [f"{summary.failed:,} failed ({errors})"] if summary.failed else []
    tokens = summary.prompt_tokens + summary.completion_tokens
    typer.echo(f"forebay: {', '.join(parts)}; {tokens:,} tokens in {summary.seconds:.1f} s")
