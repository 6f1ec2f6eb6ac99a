"""`forebay doctor`: what stands in the way on this machine, and what to do about it."""

import json
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from forebay.cli.calling import caller
from forebay.cli.options import AsJson, Config
from forebay.doctor.finding import Finding, Level, ok, wrong
from forebay.doctor.patient import Patient, Role

if TYPE_CHECKING:
    from forebay.config.settings import Settings

_COLOURS = {Level.ok: "green", Level.warning: "yellow", Level.wrong: "red"}


def doctor(
    role: Annotated[
        Role | None, typer.Option(help="What is to run here; gateway where `upstream` is set, else serve.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Whose clock to compare with: a gateway or an engine.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not import the engine, which takes long.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Look at Python, GPUs, driver and CUDA, the engine, memory, disks, ports, limits, clock, settings and stores:

    forebay doctor

    forebay doctor --role gateway --url http://10.0.0.7:8000 --json

    Each finding is ok, warning or wrong, with what to do. Status 1 where something is wrong.
    """
    from forebay.cli.choose import engine_python
    from forebay.doctor.examination import examine

    if url is not None:
        caller(url, None)  # a URL that is none ends it here
    settings, found = _settings(config)
    role = role or (Role.gateway if settings.upstream else Role.serve)
    levels = set()
    told = []
    for finding in chain(found, examine(Patient(settings, role, engine_python(settings), url, quick))):
        levels.add(finding.level)
        told.append(finding.to_dict())
        if not as_json:
            _show(finding)
    if as_json:
        typer.echo(json.dumps({"ok": Level.wrong not in levels, "role": role, "findings": told}))
    raise typer.Exit(1 if Level.wrong in levels else 0)


def _settings(config: Config) -> "tuple[Settings, list[Finding]]":
    """The settings, or the defaults where they are wrong, and what was found about them."""
    from forebay.config.settings import Settings
    from forebay.config.sources import SettingsError, load_settings

    try:
        settings, origin = load_settings({}, file=config)
    except SettingsError as invalid:
        fix = "correct it; `forebay config init` writes a file with all settings. What follows is of the defaults"
        return Settings(), [wrong("settings", line, fix) for line in str(invalid).splitlines()]
    return settings, [ok("settings", f"valid; set: {len(origin)}")]


def _show(finding: Finding) -> None:
    level = typer.style(f"{finding.level:8}", fg=_COLOURS[finding.level])
    typer.echo(f"{level} {finding.check}: {finding.told}")
    if finding.fix:
        typer.echo(f"         → {finding.fix}")
