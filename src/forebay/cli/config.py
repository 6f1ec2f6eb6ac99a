"""`forebay config`: what is wrong with the settings, what they are, what there is to set, and a file to begin with."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from forebay.cli.options import EXIT_USAGE, AsJson, Config, fail
from forebay.config.settings import Settings
from forebay.config.sources import DEFAULT_FILE, SettingsError, load_settings
from forebay.replicas.discovery.named import discovery_sources

app = typer.Typer(help="Make, check or show the settings.", no_args_is_help=True)
INIT_HEADER = """\
# Every setting of Forebay with its default: take the '#' off what you change. The environment and flags go before this
# file; `forebay config validate` checks it.

"""


@app.command()
def validate(config: Config = None, as_json: AsJson = False) -> None:
    """Validate the file and the environment, as a start or a reload would; exit status 2 where they are wrong:

    forebay config validate --config forebay.toml
    """
    try:
        settings, origin = load_settings({}, file=config)
        _check_upstream(settings)
    except SettingsError as wrong:
        if as_json:
            typer.echo(json.dumps({"valid": False, "problems": str(wrong).splitlines()}))
            raise typer.Exit(EXIT_USAGE) from None
        fail(str(wrong), EXIT_USAGE)
    told = {"valid": True, "problems": [], "set": origin}
    typer.echo(json.dumps(told) if as_json else f"valid; set: {len(origin)}")


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """The same as `forebay config validate`, by its older name."""
    validate(config, as_json)


@app.command()
def show(
    config: Config = None,
    as_json: AsJson = False,
    every: Annotated[bool, typer.Option("--all", help="Those left at their defaults, too.")] = False,
) -> None:
    """Print every setting that is not left at its default, and where it is set; secrets as ***:

    forebay config show --all --json
    """
    try:
        settings, origin = load_settings({}, file=config)
    except SettingsError as wrong:
        fail(str(wrong), EXIT_USAGE)
    names = Settings.model_fields if every else sorted(origin)
    found = {name: (_shown(getattr(settings, name)), origin.get(name, "default")) for name in names}
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "from": where} for name, (value, where) in found.items()}))
        return
    for name, (value, where) in found.items():
        typer.echo(f"{name} = {json.dumps(value, ensure_ascii=False)}  # {where}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a file of settings, for editors and other programs:

    forebay config schema > forebay.schema.json
    """
    from forebay.generate.settings_schema import schema as made

    typer.echo(json.dumps(made(), indent=2, ensure_ascii=False))


@app.command()
def init(path: Annotated[Path, typer.Argument(help="The file to write.")] = DEFAULT_FILE) -> None:
    """Write a file with every setting, its meaning and its default, commented out; none is overwritten:

    forebay config init
    """
    from forebay.generate.example_toml import body

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(INIT_HEADER + body())
    except FileExistsError:
        fail(f"{path} is there already; name another file, as in `forebay config init other.toml`")
    except OSError as failure:
        fail(f"{path}: cannot be written: {failure.strerror}")
    typer.echo(f"{path}: take the '#' off what you change; `forebay config validate --config {path}` checks it")


def _check_upstream(settings: Settings) -> None:
    """Raises `SettingsError`."""
    try:
        discovery_sources(settings)
    except ValueError as wrong:
        raise SettingsError(f"upstream: {wrong}") from None
    except OSError:  # files that are where the gateway runs
        pass


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return [_shown(one) for one in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items()}
    return value if value is None or isinstance(value, int | float | str) else str(value)
