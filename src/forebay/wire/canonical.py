"""A request's body in the one form that equal requests share, for the cache's key.

Two bodies have the same form only where the answer must be the same: white space and the order of keys go, at the top
and in each message and its parts, and so do the fields that no answer depends on. Everything deeper keeps its order,
for a model sees the order of a tool's or a schema's keys; numbers and texts stay as they were written, digit by digit.
"""

import re
from typing import NamedTuple

import msgspec
from msgspec import Raw

# What tells who asks and how the answer shall travel, and the model, which is part of the key by its resolved name.
_OF_NO_ACCOUNT = frozenset(
    {
        "metadata",
        "model",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)
_SPACE = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|\s+', re.DOTALL)
_fields_decoder = msgspec.json.Decoder(dict[str, Raw])
_list_decoder = msgspec.json.Decoder(list[dict[str, Raw]])


class Canonical(NamedTuple):
    """`deterministic` tells that the same request gets the same answer: nothing is drawn, or with a given seed."""

    text: bytes
    deterministic: bool


def canonical(body: bytes, *, stream: bool) -> Canonical:
    """The form of a JSON object. A stream's options belong to it: they say which events there are.

    Raises msgspec.DecodeError for what is none.
    """
    fields = _fields_decoder.decode(body)
    kept = {name: _of_field(name, value) for name, value in fields.items() if name not in _OF_NO_ACCOUNT}
    if stream:
        kept["stream_options"] = Raw(compact(bytes(fields.get("stream_options", Raw(b"null")))))
    return Canonical(msgspec.json.encode(kept, order="deterministic"), _is_deterministic(fields))


def compact(json: bytes) -> bytes:
    """JSON without the white space between its tokens."""
    return _SPACE.sub(rb"\1", json)


def _of_field(name: str, value: Raw) -> Raw:
    return Raw(_objects(bytes(value), inner="content") if name == "messages" else compact(bytes(value)))


def _objects(json: bytes, inner: str = "") -> bytes:
    """A list of objects, each with its keys in order; those of the lists that they have as `inner` too."""
    try:
        objects = _list_decoder.decode(json)
    except msgspec.ValidationError:
        return compact(json)
    told = [{name: Raw(_part(bytes(value), name == inner)) for name, value in one.items()} for one in objects]
    return msgspec.json.encode(told, order="deterministic")


def _part(json: bytes, is_inner: bool) -> bytes:
    return _objects(json) if is_inner and json[:1] == b"[" else compact(json)


def _is_deterministic(fields: dict[str, Raw]) -> bool:
    return _number(fields.get("temperature")) == 0 or _number(fields.get("seed")) is not None


def _number(value: Raw | None) -> float | None:
    try:
        return None if value is None else msgspec.json.decode(value, type=float)
    except msgspec.DecodeError:
        return None
