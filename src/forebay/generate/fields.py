"""What the settings' fields say of themselves, as text."""

import json
from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from forebay.config.settings import Settings


def by_group() -> Iterator[tuple[str, list[tuple[str, FieldInfo]]]]:
    """The settings in their order, group by group."""
    groups: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, field in Settings.model_fields.items():
        extra: Any = field.json_schema_extra
        groups.setdefault(extra["group"], []).append((name, field))
    yield from groups.items()


def range_of(field: FieldInfo) -> str:
    """The values a number may have, or the words a text may be; empty where anything goes."""
    signs = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    found = [
        f"{signs[type(limit)][0]} {getattr(limit, signs[type(limit)][1])}"
        for limit in field.metadata
        if type(limit) in signs
    ]
    words = [argument for argument in get_args(field.annotation) if isinstance(argument, str)]
    return ", ".join(found or words)


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
