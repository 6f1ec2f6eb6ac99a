"""Tables, lists and texts as YAML that people can read; texts as JSON writes them, which YAML takes."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_MEANT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # by some readers
_NOT_PRINTED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")  # JSON leaves these as they are


def dump(value: Mapping[str, Any]) -> str:
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    """The lines of a table, a list or a scalar, not indented."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _entry(f"{_key(key)}:", inner)
    elif isinstance(value, list) and value:
        for inner in value:
            first, *others = _lines(inner)
            yield f"- {first}"
            yield from (f"  {line}" for line in others)
    else:
        yield _scalar(value)


def _entry(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list) and value:
        yield key
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key} {_scalar(value)}"


def _key(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text.lower() not in _MEANT else _scalar(text)


def _scalar(value: Any) -> str:
    """Also an empty table or list."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and "." not in text:
        return text.replace("e", ".0e")  # without the point, some readers take it for a text
    return _NOT_PRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
