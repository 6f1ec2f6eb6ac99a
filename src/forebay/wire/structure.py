"""How much structure an answer may be asked to have: tools, schemas, patterns and grammars.

Engines compile each of them before the first token, in time that grows faster than its length, so each is bounded, and
patterns are looked at (`patterns.py`). What a schema means is the engine's to judge. How many requests that need any of
it a tenant may have at once is `policy/compiling.py`'s.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from forebay.refusals import BadRequest
from forebay.wire.patterns import complaint, needs_a_look
from forebay.wire.shape import may_have_text_of

_LISTS = frozenset({"tools", "functions"})
_PATTERNS = frozenset({"pattern", "regex"})
_COMPILED = frozenset({*_PATTERNS, "grammar", "structural_tag"})
_BARE = {"guided_regex": "regex", "guided_grammar": "grammar"}  # fields that are one themselves
_NO_STRUCTURE = frozenset({b"null", b"[]", b"{}", b'{"type":"text"}', b'{"type": "text"}'})
_FREE_CHOICES = (None, "auto", "none")


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
        long = len(raw) > max_grammar_bytes and may_have_text_of(raw, max_grammar_bytes)
        if long or name in _BARE or b'"pattern' in raw or b'"regex"' in raw or b"\\u" in raw:
            _check_texts(name, raw, max_grammar_bytes)


def needs_compiling(fields: Mapping[str, Raw], tool_choice: bytes) -> bool:
    """Whether an engine has to compile something before the first token: tools that it may use as it likes it has not,
    unless one is strict."""
    free = _is_free(tool_choice)
    return any(_is_compiled(name, bytes(value), free=free) for name, value in fields.items())


def _is_free(tool_choice: bytes) -> bool:
    """Whether an answer may do without a tool; Anthropic's form of a choice is an object."""
    try:
        choice = msgspec.json.decode(tool_choice) if tool_choice else None
    except msgspec.DecodeError:  # a number that nothing can hold
        raise BadRequest("'tool_choice' has a number that is too large.", param="tool_choice") from None
    return (choice.get("type") if type(choice) is dict else choice) in _FREE_CHOICES


def _is_compiled(name: str, raw: bytes, *, free: bool) -> bool:
    if raw in _NO_STRUCTURE:
        return False
    if name in _LISTS:
        return not free or b'"strict"' in raw or b"\\u" in raw
    return name != "text" or b'"json' in raw or b'"grammar' in raw or b"\\u" in raw


def _length(raw: bytes) -> int:
    return len(msgspec.json.decode(raw, type=list[Raw])) if raw.startswith(b"[") else 0


def _check_texts(name: str, raw: bytes, most: int) -> None:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:  # a number that nothing can hold
        raise BadRequest(f"'{name}' has a number that is too large.", param=name) from None
    left = 2 * most
    for kind, text in [(_BARE[name], value)] if name in _BARE else _compiled(value):
        if type(text) is not str:
            continue
        if len(text) > most:
            raise BadRequest(f"A pattern or grammar in '{name}' may have at most {most} characters.", param=name)
        if kind in _PATTERNS and needs_a_look(text):
            left -= len(text)
            if left < 0:
                raise BadRequest(f"The patterns in '{name}' repeat too much, all together.", param=name)
            if (wrong := complaint(text)) is not None:
                raise BadRequest(f"A pattern in '{name}' {wrong}.", param=name)


def _compiled(value: Any) -> Iterator[tuple[str, Any]]:
    """What engines compile: patterns and grammars, and names, which `patternProperties` has for patterns."""
    if type(value) is list:
        for item in value:
            yield from _compiled(item)
    elif type(value) is dict:
        for name, inner in value.items():
            yield "pattern", name
            if name in _COMPILED:
                yield name, inner
            yield from _compiled(inner)
