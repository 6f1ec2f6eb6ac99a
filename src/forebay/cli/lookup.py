"""The models that are here, by the names that commands take; and what those commands say."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli.options import EXIT_USAGE, fail
from forebay.models.default import DEFAULT_MODEL, NAME, model_cache
from forebay.models.lock import only_one

if TYPE_CHECKING:  # the hub's library takes a third of a second to import: only commands that use it do
    from forebay.models.catalogue import Model

NONE_HERE = "no model is here; `forebay models pull owner/name` fetches one"
Name = Annotated[str, typer.Argument(help="`owner/name` as on the Hugging Face hub, or 'default'.", metavar="MODEL")]
NameOrDirectory = Annotated[str, typer.Argument(help="`owner/name`, 'default', or a directory.", metavar="MODEL")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit; by default main, else the newest here.")]


def all_models() -> "Iterator[Model]":
    """The packaged default and what is in the hub's cache."""
    from forebay.models import hub
    from forebay.models.catalogue import models

    return models(hub.cache(), model_cache() / NAME)


def named_models(name: str) -> "list[Model]":
    """All revisions of a model that are here."""
    return [model for model in all_models() if model.name == name]


def revision_of(name: str, revision: str | None) -> "Model":
    """One revision of a model that is here: the one named, else main, else the newest. Ends the process without."""
    here = named_models(name)
    wanted = [model for model in here if revision is None or revision in (model.revision, *model.names)]
    if not wanted:
        what = f"{name} ({revision})" if here else name
        fail(f"{what} is not here; `forebay models list` shows what is, and `forebay models pull {name}` fetches it")
    return next((model for model in wanted if "main" in model.names), wanted[0])


def model_or_directory(name: str, revision: str | None) -> "Model":
    """A model that is here, or a directory, named as `forebay serve` takes it."""
    if not name.startswith(("/", "./", "../", "~")):
        return revision_of(name, revision)
    from forebay.models.catalogue import describe

    path = Path(name).expanduser()
    if not path.is_dir():
        fail(f"there is no directory {path}")
    return describe(name, "", (), path, "")


@contextmanager
def only_here(name: str) -> Iterator[None]:
    """While no other process pulls or removes a model; ends the process where the cache cannot be written to."""
    from forebay.models import hub

    if name.count("/") > 1 or name.startswith(("/", ".", "~")):
        fail(f"{name!r} is no name of a model: it is `owner/name`, as on the Hugging Face hub", EXIT_USAGE)
    hub.quiet()
    path = default_lock() if name == DEFAULT_MODEL else hub.lock(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        fail(f"cannot write {failure.filename}: {failure.strerror}; set HF_HOME to a directory that will do")
    with only_one(path, say):
        yield


def default_lock() -> Path:
    """What is held while the default model is made."""
    return model_cache() / f"{NAME}.lock"


def say(line: str) -> None:
    """A step of a long command, on standard error."""
    typer.echo(f"forebay: {line}", err=True)


def report(fields: dict[str, Any], as_json: bool, line: str) -> None:
    """The outcome of a command, for programs or for people."""
    typer.echo(json.dumps(fields) if as_json else f"forebay: {line}")


def day(moment: float | None) -> str:
    """When something was, to the day."""
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).date().isoformat()
