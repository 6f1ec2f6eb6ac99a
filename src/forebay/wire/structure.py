"""How much structure an answer may be asked to have: tools, schemas, patterns and grammars.

Engines compile each of them before the first token, in time that grows faster than its length, so each is bounded. What
a pattern or a schema means is the engine's to judge.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from forebay.refusals import BadRequest
from forebay.wire.shape import may_have_text_of

_LISTS = frozenset({"tools", "functions"})
_COMPILED = frozenset({"pattern", "regex", "grammar", "structural_tag"})
_BARE = frozenset({"guided_regex", "guided_grammar"})  # fields that are one themselves


def check_structure(
    fields: Mapping[str, Raw], *, max_tools: int, max_schema_bytes: int, max_grammar_bytes: int
) -> None:
    """Raises `BadRequest` for the field that is too much."""
    for name, value in fields.items():
        raw = bytes(value)
        if len(raw) > max_schema_bytes:
            raise BadRequest(f"'{name}' may have at most {max_schema_bytes} bytes.", param=name)
        if name in _LISTS and raw.count(b"{") > max_tools and _length(raw) > max_tools:
            raise BadRequest(f"'{name}' may have at most {max_tools} entries.", param=name)
        if len(raw) > max_grammar_bytes and may_have_text_of(raw, max_grammar_bytes):
            _check_texts(name, raw, max_grammar_bytes)


def _length(raw: bytes) -> int:
    return len(msgspec.json.decode(raw, type=list[Raw])) if raw.startswith(b"[") else 0


def _check_texts(name: str, raw: bytes, most: int) -> None:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:  # a number that nothing can hold
        raise BadRequest(f"'{name}' has a number that is too large.", param=name) from None
    for text in [value] if name in _BARE else _compiled(value):
        if type(text) is str and len(text) > most:
            raise BadRequest(f"A pattern or grammar in '{name}' may have at most {most} characters.", param=name)


def _compiled(value: Any) -> Iterator[Any]:
    """What engines compile: patterns and grammars, and names, which `patternProperties` has for patterns."""
    if type(value) is list:
        for item in value:
            yield from _compiled(item)
    elif type(value) is dict:
        for name, inner in value.items():
            yield name
            if name in _COMPILED:
                yield inner
            yield from _compiled(inner)
