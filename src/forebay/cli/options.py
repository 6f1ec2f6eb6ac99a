"""What every command may need: options of many, and how a command ends. It imports little: commands start at once."""

import typing
from pathlib import Path
from typing import Annotated

import typer

EXIT_USAGE = 2

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings (./forebay.toml).")]


def fail(message: str, status: int = 1) -> typing.NoReturn:
    """End with a message on standard error, a line each, and no traceback."""
    for line in message.splitlines():
        typer.secho(f"forebay: {line}", fg="red", err=True)
    raise typer.Exit(status)
