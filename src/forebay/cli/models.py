"""`forebay models`: the models on this machine. They are kept where vLLM looks for them."""

import json
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli.fetch import pull, verify
from forebay.cli.lookup import (
    NONE_HERE,
    Name,
    NameOrDirectory,
    Revision,
    all_models,
    day,
    model_or_directory,
    named_models,
    only_here,
    say,
)
from forebay.cli.options import EXIT_USAGE, AsJson, fail
from forebay.cli.preload import preload
from forebay.cli.rows import print_table
from forebay.models.default import DEFAULT_MODEL
from forebay.models.sizes import count, readable

if TYPE_CHECKING:
    from forebay.models.catalogue import Model

models = typer.Typer(help="Models: fetch them, look at them, check them, remove them.", no_args_is_help=True)
models.command()(pull)


@models.command(name="list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that are here:

    forebay models list --json
    """
    found = list(all_models())
    if as_json:
        typer.echo(json.dumps([model.as_json() for model in found]))
        return
    if not found:
        say(NONE_HERE)
        return
    columns = ("model", "revision", "size", "parameters", "quantisation", "type", "context", "chat template")
    print_table([_row(model) for model in found], *columns, "architecture", "last used", "state")


@models.command()
def show(
    model: NameOrDirectory,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a model that is here:

    forebay models show default
    """
    found = model_or_directory(model, revision)
    fields = found.as_json()
    if as_json:
        typer.echo(json.dumps(fields))
        return
    facts = fields.pop("facts") or {}
    fields |= {"size": readable(found.size_bytes), "last_used": day(found.last_used), "files": "\n".join(found.files)}
    shown = {**fields, **{name: value for name, value in facts.items() if name not in fields}}
    print_table([[name, _text(value)] for name, value in shown.items() if value not in ("", None, [], ())], "", "")


models.command()(verify)


@models.command()
def remove(
    model: Name,
    revision: Revision = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model, or one revision of it, and all that was fetched of it:

    forebay models remove Qwen/Qwen2.5-0.5B-Instruct --yes
    """
    found = [one for one in named_models(model) if revision is None or revision in (one.revision, *one.names)]
    if not found:
        fail(f"{model} is not here; `forebay models list` shows what is")
    size = readable(sum(one.size_bytes for one in found))
    if not yes:
        if not sys.stdin.isatty():
            fail("say --yes: there is nobody to ask", EXIT_USAGE)
        typer.confirm(f"Remove {model}, {size} in {found[0].path}?", abort=True, err=True)
    with only_here(model):
        try:
            _remove(found)
        except OSError as failure:
            fail(f"cannot remove {failure.filename}: {failure.strerror}")
    typer.echo(f"forebay: {model} is removed ({size})")


models.command()(preload)


def _remove(found: "list[Model]") -> None:
    """Remove revisions of one model."""
    from forebay.models import hub
    from forebay.models.remove import remove as remove_from_cache

    if found[0].name == DEFAULT_MODEL:
        shutil.rmtree(found[0].path)
    else:
        remove_from_cache(hub.repository(found[0].name), [one.revision for one in found if one.revision])


def _row(model: "Model") -> list[str]:
    return [
        model.name,
        " ".join((model.revision[:12], *model.names)),
        readable(model.size_bytes),
        count(model.parameters),
        model.quantisation,
        model.dtype,
        str(model.context_tokens or ""),
        model.chat_template,
        model.architecture,
        day(model.last_used),
        model.state,
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
