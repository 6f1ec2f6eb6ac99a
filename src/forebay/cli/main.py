"""`forebay`: the table of its commands, each in a module of its own that is imported when the command is called."""

import contextlib
import errno
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from forebay import __version__

# name: (where it is, what it is for)
COMMANDS = {
    "serve": ("serve:serve", "Start vLLM on a model and serve it."),
    "rollout": ("rollout:rollout", "Replace a running server's engines, while it serves."),
    "plan": ("plan:plan", "Say what a model needs, and how to serve it well on given GPUs."),
    "gateway": ("gateway:gateway", "Serve the models of running vLLM engines."),
    "engine": ("engine:engine", "Start vLLM on a model, for a gateway elsewhere."),
    "deploy": ("deploy:app", "Make values for the Helm chart, or Compose's files, of settings."),
    "models": ("models:models", "Fetch models, look at them, check them, remove them."),
    "chat": ("chat:chat", "Talk with a model."),
    "generate": ("generate:generate", "Print the answer to one prompt."),
    "top": ("top:top", "Watch a running gateway, live."),
    "why": ("why:why", "Say why a request was slow, refused, failed or cut."),
    "doctor": ("doctor:doctor", "Find what stands in the way on this machine, and the fix."),
    "config": ("config:app", "Make, check or show the settings."),
    "bench": ("bench:app", "Measure how fast a server is, and how much it can take."),
    "batch": ("batch:batch", "Ask a file of requests (OpenAI's batch format)."),
    "usage": ("usage:usage", "Show what was used, and what it costs."),
    "audit": ("usage:audit", "Show what administrators did."),
    "keys": ("keys:keys", "Say who may call, and how much."),
    "tenants": ("tenants:tenants", "Say what all keys of a tenant may use together."),
    "db": ("db:db", "Bring the database's tables up to date."),
}


def load(name: str) -> Any:
    """A command or a group of commands, as the command line's parser has it."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"forebay.cli.{module}"), attribute)
    alone = typer.Typer()
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    return typer.main.get_group(alone).commands[name]


class _Commands(TyperGroup):
    """Of the commands that are listed it knows the help alone; the one that is called is loaded."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, name and load(name), rest


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what an answer is redirected to takes no more

app = typer.Typer(
    name="forebay",
    cls=_Commands,
    help="The production service in front of vLLM: one secured, fair, observable OpenAI-compatible endpoint.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def about(version: bool = typer.Option(False, "--version", help="Show the version.", is_eager=True)) -> None:
    """The production service in front of vLLM."""
    if version:
        typer.echo(f"forebay {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script."""
    try:
        app()
    except OSError as failure:
        if failure.errno not in _FULL:
            raise
        with contextlib.suppress(OSError):  # else Python tries once more at its end, and complains itself
            sys.stdout.close()
        sys.exit(f"forebay: cannot be written: {failure.strerror}; make room, or write elsewhere")
