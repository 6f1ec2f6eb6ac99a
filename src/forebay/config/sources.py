"""Where settings come from: defaults, then a TOML file, then the environment, then flags; the later wins.

Each value's source is remembered, so that an error can name it.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from forebay.config.settings import Settings

DEFAULT_FILE = Path("forebay.toml")


class SettingsError(Exception):
    """The settings cannot be used; the message names the key, where it came from and what is wrong, a line each."""


def load_settings(
    flags: Mapping[str, Any],
    env: Mapping[str, str] = os.environ,
    file: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Return the settings and, for each that is not a default, where it was set; `defaults` go before the fields' own.

    Raises `SettingsError` for an unreadable file, an unknown key or a value out of range.
    """
    values: dict[str, Any] = dict(defaults or {})
    origin: dict[str, str] = {}
    for name, value, source in [*_from_file(_chosen_file(file, env)), *_from_env(env)]:
        values[name], origin[name] = value, source
    for name, value in flags.items():
        if value is not None and value != ():
            values[name], origin[name] = value, "--" + name.replace("_", "-")
    try:
        return Settings(**values), origin
    except ValidationError as invalid:
        raise SettingsError("\n".join(_explain(invalid, origin))) from None


@dataclass(frozen=True)
class Loader:
    """Loads the settings of one process, now and again, always from the same places: the `file` first chosen, too."""

    load: Callable[[], Settings]  # raises `SettingsError`
    file: Path | None

    @classmethod
    def of(
        cls, flags: Mapping[str, Any], file: Path | None = None, defaults: Mapping[str, Any] | None = None
    ) -> "Loader":
        """The loader of a process with these flags."""
        chosen = _chosen_file(file, os.environ)
        return cls(lambda: load_settings(flags, os.environ, chosen, defaults)[0], chosen)

    def then(self, change: Callable[[Settings], Settings]) -> "Loader":
        """The same, with something done to the settings."""
        return Loader(lambda: change(self.load()), self.file)


def _chosen_file(file: Path | None, env: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if named := env.get("FOREBAY_CONFIG"):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _from_file(path: Path | None) -> list[tuple[str, Any, str]]:
    if path is None:
        return []
    try:
        text = path.read_text("utf-8-sig")  # Windows writes such a mark
        table = tomllib.loads(text)
    except OSError as failure:
        raise SettingsError(f"{path}: cannot be read: {failure.strerror}") from None
    except UnicodeDecodeError as failure:
        raise SettingsError(f"{path}: not valid TOML: {failure}") from None
    except tomllib.TOMLDecodeError as failure:
        told = str(failure).replace("end of document", f"line {text.count(chr(10)) + 1}, the end")
        raise SettingsError(f"{path}: not valid TOML: {told}") from None
    except ValueError:  # what Python says of a number with more than 4300 digits
        raise SettingsError(f"{path}: not valid TOML: a number in it is too long") from None
    except RecursionError:
        raise SettingsError(f"{path}: nested too deeply") from None
    return [(name, value, f"{path}{_line_of(name, text)}") for name, value in table.items()]


def _line_of(name: str, text: str) -> str:
    """`:` and the number of the line that a file sets a key in; empty where it is written in some unusual way."""
    found = re.search(rf"^\s*\[*\s*[\"']?{re.escape(name)}[\"']?\s*[=.\]]", text, re.MULTILINE)
    return f":{text.count(chr(10), 0, found.end()) + 1}" if found is not None else ""


def _from_env(env: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    found = []
    for name, field in Settings.model_fields.items():
        for variable in environment_names(name, field):
            if (text := env.get(variable, "")) != "":
                found.append((name, parse_text(field, text), variable))
                break
    return found


def environment_names(name: str, field: FieldInfo) -> list[str]:
    """The variables that set a field, first match wins: the prefixed one, then the plain ones."""
    extra: Any = field.json_schema_extra
    return [f"FOREBAY_{name.upper()}", *extra["aliases"]]


def parse_text(field: FieldInfo, text: str) -> Any:
    """Split a flat text into what a list or table field holds; leave all else to pydantic."""
    extra: Any = field.json_schema_extra
    kind = str(field.annotation)
    if kind.startswith("tuple[dict") or kind.endswith(("Price]", "Preset]")):
        return _from_json(text)
    if kind.startswith("tuple["):
        return tuple(part.strip() for part in text.split(extra["separator"]) if part.strip())
    if kind.startswith("dict["):
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        found = {name.strip(): value.strip() for name, _, value in pairs}
        return found if len(found) == len(pairs) else text  # one that comes twice is wrong in one of the two
    return text


def _from_json(text: str) -> Any:
    """What JSON says; a text that is none is left to pydantic, which refuses it by its key."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _explain(invalid: ValidationError, origin: Mapping[str, str]) -> list[str]:
    lines = []
    for error in invalid.errors(include_url=False, include_input=False, include_context=False):
        key = str(error["loc"][0]) if error["loc"] else ""
        what = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            what = "no such setting"
        where = f" (from {origin[key]})" if key in origin else ""
        lines.append(f"{key}: {what}{where}" if key else what)
    return lines
