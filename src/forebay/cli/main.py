"""`forebay`: parse, call, print."""

import contextlib
import errno
import sys

import typer

from forebay import __version__
from forebay.cli import bench, config
from forebay.cli.batch import batch
from forebay.cli.chat import chat
from forebay.cli.db import db
from forebay.cli.doctor import doctor
from forebay.cli.engine import engine
from forebay.cli.gateway import gateway
from forebay.cli.generate import generate
from forebay.cli.keys import keys
from forebay.cli.models import models
from forebay.cli.plan import plan
from forebay.cli.rollout import rollout
from forebay.cli.serve import serve
from forebay.cli.tenants import tenants
from forebay.cli.top import top
from forebay.cli.usage import audit, usage

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what an answer is redirected to takes no more

app = typer.Typer(
    name="forebay",
    help="The production service in front of vLLM: one secured, fair, observable OpenAI-compatible endpoint.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="serve")(serve)
app.command(name="rollout")(rollout)
app.command(name="plan")(plan)
app.command(name="gateway")(gateway)
app.command(name="engine")(engine)
app.add_typer(models, name="models")
app.command(name="chat")(chat)
app.command(name="generate")(generate)
app.command(name="top")(top)
app.command(name="doctor")(doctor)
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")
app.add_typer(batch, name="batch")
app.command(name="usage")(usage)
app.command(name="audit")(audit)
app.add_typer(keys, name="keys")
app.add_typer(tenants, name="tenants")
app.add_typer(db, name="db")


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
