"""`docs/reference/settings.md`."""

from typing import Any

from pydantic.fields import FieldInfo

from forebay.config.sources import environment_names
from forebay.generate.fields import by_group, default_of, kind_of, range_of

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Settings

A setting is a line of `forebay.toml`, an environment variable, and, unless it is a secret, an option of the commands
named. Flags go before the environment, the environment before the file. A list is comma-separated in the environment;
as an option it is repeated. A table is written name=value there, and as a table in the file.

A running gateway follows a change of the settings that are hot, when their file changes or on SIGHUP; the others take
a restart, and an engine's own options a rollout.
"""
_COLUMNS = "| setting | type | default | range | meaning | hot | environment | option of |"


def render() -> str:
    lines = [HEADER]
    for group, fields in by_group():
        lines += [f"## {group.capitalize()}\n", _COLUMNS]
        lines.append("| --- " * _COLUMNS.count(" | ") + "| --- |")
        lines += [_row(name, field) for name, field in fields]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, field: FieldInfo) -> str:
    extra: Any = field.json_schema_extra
    variables = " ".join(f"`{variable}`" for variable in environment_names(name, field))
    default, roles = default_of(field), ", ".join(extra["roles"])
    meaning = (field.description or "").replace("|", "\\|")
    shown = f"`{default}`" if default else ""
    hot = "yes" if extra["hot"] else ""
    cells = (f"`{name}`", kind_of(name, field), shown, range_of(field), meaning, hot, variables)
    return f"| {' | '.join(cells)} | {roles} |"
