"""What the settings' fields say of themselves, as text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from forebay.config.settings import Settings

_SIGNS = {Ge: "≥ {0.ge}", Gt: "> {0.gt}", Le: "≤ {0.le}", Lt: "< {0.lt}", MinLen: "at least {0.min_length}"}
_UNITS = {"_s": "seconds", "_bytes": "bytes", "_tokens": "tokens"}
_CONTAINERS = {tuple: "list", dict: "table"}
_KINDS = {bool: "bool", int: "integer", float: "number", Path: "path", SecretStr: "secret", str: "text"}


def by_group() -> Iterator[tuple[str, list[tuple[str, FieldInfo]]]]:
    """The settings in their order, group by group."""
    groups: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, field in Settings.model_fields.items():
        extra: Any = field.json_schema_extra
        groups.setdefault(extra["group"], []).append((name, field))
    yield from groups.items()


def kind_of(name: str, field: FieldInfo) -> str:
    """What a setting's value is, in a word; the unit where its name carries one."""
    kinds = _flat(field.annotation)
    origin = get_origin(field.annotation)
    if origin is Literal:
        return "choice"
    if origin in _CONTAINERS:
        return f"{_CONTAINERS[origin]}{' of secrets' if SecretStr in kinds else ''}"
    unit = next((word for suffix, word in _UNITS.items() if name.endswith(suffix)), "")
    return unit or next(word for kind, word in _KINDS.items() if kind in kinds)


def range_of(field: FieldInfo) -> str:
    """The values a number, or each in a table, may have, or the words of a choice; empty where anything goes."""
    found = [_SIGNS[type(limit)].format(limit) for limit in _limits(field) if type(limit) in _SIGNS]
    words = [argument for argument in get_args(field.annotation) if isinstance(argument, str)]
    return ", ".join(found or words)


def _limits(field: FieldInfo) -> Iterator[Any]:
    yield from field.metadata
    for argument in get_args(field.annotation):
        for inner in get_args(argument):
            yield from inner.metadata if isinstance(inner, FieldInfo) else ()


def default_of(field: FieldInfo) -> str:
    """The default as TOML writes it; empty where there is none."""
    value = field.default
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return json.dumps(value)
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def is_secret(field: FieldInfo) -> bool:
    """Whether a field holds what must not be shown."""
    return SecretStr in _flat(field.annotation)


def _flat(annotation: Any) -> set[Any]:
    return {annotation}.union(*(_flat(argument) for argument in get_args(annotation)))
