"""`forebay config check` and `forebay config show`: what is wrong with the settings, and what they are."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from forebay.cli.options import EXIT_USAGE, fail
from forebay.config.settings import Settings
from forebay.config.sources import SettingsError, load_settings
from forebay.replicas.discovery.named import discovery_sources

app = typer.Typer(help="Check the settings, or show them.", no_args_is_help=True)
_File = Annotated[Path | None, typer.Option("--config", help="TOML file of settings (./forebay.toml).")]


@app.command()
def check(config: _File = None) -> None:
    """Validate the file and the environment, as a start or a reload would; exit status 2 where they are wrong."""
    settings, origin = _load(config)
    try:
        discovery_sources(settings)
    except ValueError as wrong:
        fail(f"upstream: {wrong}", EXIT_USAGE)
    except OSError:  # files that are where the gateway runs
        pass
    typer.echo(f"valid: {len(origin)} settings are not left at their defaults")


@app.command()
def show(config: _File = None) -> None:
    """Print every setting that is not left at its default, and where it is set; secrets as ***."""
    settings, origin = _load(config)
    for name, where in sorted(origin.items()):
        typer.echo(f"{name} = {json.dumps(_shown(getattr(settings, name)), ensure_ascii=False)}  # {where}")


def _load(config: Path | None) -> tuple[Settings, dict[str, str]]:
    try:
        return load_settings({}, file=config)
    except SettingsError as wrong:
        fail(str(wrong), EXIT_USAGE)


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return [_shown(one) for one in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items()}
    return value if isinstance(value, int | float | str) else str(value)
