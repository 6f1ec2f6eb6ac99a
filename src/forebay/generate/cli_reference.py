"""`docs/reference/cli.md`: the commands, what each takes of its own, and which settings are its options."""

from functools import cache
from typing import Any

import typer

from forebay.cli.main import COMMANDS, app, load
from forebay.config.settings import Settings

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Commands

What a setting means is in [settings](settings.md); every command says it too, with `--help`. A setting that is on or
off is switched off with `--no-` before its name.
"""


@cache
def commands() -> dict[str, Any]:
    """Every command by its name, and `forebay` itself, as the command line's parser has them."""
    found = {"forebay": typer.main.get_command(app)}
    for name in COMMANDS:
        found |= _with_those_below(f"forebay {name}", load(name))
    return found


def _with_those_below(name: str, command: Any) -> dict[str, Any]:
    """A command; of a group of commands, those in it too."""
    found = {name: command}
    for own, below in getattr(command, "commands", {}).items():
        found |= _with_those_below(f"{name} {own}", below)
    return found


def render() -> str:
    return "\n".join([HEADER, *(_section(name, command) for name, command in commands().items())])


def _section(name: str, command: Any) -> str:
    what = command.help.partition("\n")[0].rstrip(":.")
    own = [parameter for parameter in command.params if not _is_setting(parameter)]
    lines = [f"## {name}\n", f"{what}."]
    lines += ["\n| argument or option | meaning |", "| --- | --- |"] if own else []
    lines += [f"| `{_name(parameter)}` | {parameter.help} |" for parameter in own]
    settings = [f"`{parameter.opts[0]}`" for parameter in command.params if _is_setting(parameter)]
    if settings:
        lines += ["", f"Settings: {', '.join(settings)}."]
    return "\n".join(lines) + "\n"


def _is_setting(parameter: Any) -> bool:
    """Settings' options are in the panels of their groups; a command's own may have the same name."""
    return parameter.name in Settings.model_fields and getattr(parameter, "rich_help_panel", None) is not None


def _name(parameter: Any) -> str:
    argument = parameter.param_type_name == "argument"
    return str((parameter.metavar or parameter.name.upper()) if argument else parameter.opts[0])
