"""Tables, lists and texts as YAML that people can read; texts as JSON writes them, which YAML takes."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def dump(value: Mapping[str, Any]) -> str:
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    """The lines of a table or a list, not indented."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _entry(f"{key}:", inner)
        return
    for inner in value:
        first, *others = _lines(inner)
        yield f"- {first}"
        yield from (f"  {line}" for line in others)


def _entry(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list):
        yield key
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key} {json.dumps(value, ensure_ascii=False)}"
