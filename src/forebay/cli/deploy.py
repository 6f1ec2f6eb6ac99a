"""`forebay deploy render`: values for the Helm chart, or files for Compose, from one file of settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from forebay.cli.options import EXIT_USAGE, Config, fail
from forebay.cli.settings_options import named_settings

if TYPE_CHECKING:
    from forebay.deploy.sides import Sides

app = typer.Typer(help="Bring settings that work here to where they shall work.", no_args_is_help=True)

_Target = Annotated[Literal["helm", "compose"], typer.Option(help="helm (values for the chart) or compose (files).")]
_Plans = Annotated[
    list[Path] | None, typer.Option("--plan", help="What `forebay plan MODEL --json` printed; repeat for more models.")
]
_Gpus = Annotated[int, typer.Option(min=0, max=64, help="GPUs of one engine, where nothing says; 0 is the CPU.")]
_Secret = Annotated[str, typer.Option(help="Kubernetes Secret that has the keys (helm).")]
_Out = Annotated[Path | None, typer.Option(help="File (helm) or directory (compose) to write; helm prints without.")]


@app.callback()
def deploy() -> None:
    """Bring settings that work here to where they shall work."""


@app.command()
def render(
    target: _Target = "helm",
    config: Config = None,
    plan: _Plans = None,
    gpus: _Gpus = 1,
    secret: _Secret = "forebay-keys",  # noqa: S107 (its name)
    out: _Out = None,
) -> None:
    """Make values for the Helm chart, or files for Compose, of the settings that hold here:

    forebay deploy render --config forebay.toml --out values.yaml

    forebay deploy render --target compose --config forebay.toml --plan plan.json --out ./forebay

    Secrets are named and never written. What is said nowhere in the result is listed on standard error, with the
    reason. A plan goes before the settings, and a plan of a model that they do not name adds it.
    """
    from forebay.deploy.sides import CannotRender, sides

    settings = named_settings(config)
    try:
        found = sides(settings, [_plan(path) for path in plan or ()])
        if target == "helm":
            _helm(found, secret, gpus, out)
        else:
            _compose(found, gpus, out)
    except CannotRender as wrong:
        fail(str(wrong), EXIT_USAGE)


def _plan(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as failure:
        fail(f"{path}: cannot be read: {failure.strerror}", EXIT_USAGE)
    except ValueError:
        fail(f"{path}: is no JSON; make it with `forebay plan MODEL --gpu GPU --json`", EXIT_USAGE)


def _helm(found: "Sides", secret: str, gpus: int, out: Path | None) -> None:
    from forebay.deploy.chart import chart
    from forebay.deploy.compose import MADE
    from forebay.generate.yaml_text import dump

    made = chart(found, secret, gpus)
    text = MADE + dump(made.values)
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(out, text)
    _tell(made.left_out)
    files = " ".join(f"--from-file={key}=FILE" for key in made.keys)
    _note(f"make the Secret that has the keys: kubectl create secret generic {secret} {files}")


def _compose(found: "Sides", gpus: int, out: Path | None) -> None:
    from forebay.deploy.compose import compose

    if out is None:
        fail("out: name a directory for the files, as --out ./forebay", EXIT_USAGE)
    made = compose(found, gpus)
    for name, text in made.texts.items():
        if name != ".env" or not (out / name).exists():
            _write(out / name, text, mode=0o600 if name == ".env" else 0o644)
    _tell(made.left_out)
    _note(f"fill in {out / '.env'}, then: docker compose --project-directory {out} up --detach")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file; one that somebody else made stays."""
    from forebay.deploy.compose import MADE

    try:
        if path.exists() and not path.read_text().startswith(MADE):
            fail(f"{path} is there already, and not made by this command; name another with --out")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode)
        path.write_text(text)
    except (OSError, UnicodeDecodeError) as failure:
        fail(f"{path}: cannot be written: {getattr(failure, 'strerror', None) or 'it is no text'}")


def _tell(left_out: Mapping[str, str]) -> None:
    for name, why in left_out.items():
        _note(f"left out: {name}: {why}")


def _note(text: str) -> None:
    typer.secho(f"forebay: {text}", fg="yellow", err=True)
