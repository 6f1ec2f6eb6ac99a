"""A request's body in the one form that equal requests share, for the cache's key.

Two bodies have the same form only where the answer must be the same: white space, the spelling of texts and numbers and
the order of keys go, at the top and in each message and its parts, and so do the fields that no answer depends on.
Everything deeper keeps its order, for a model sees the order of a tool's or a schema's keys.
"""

from typing import Any, NamedTuple

import msgspec

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
_NUMBERS = (int, float)
_decoder = msgspec.json.Decoder(dict[str, Any])


class Canonical(NamedTuple):
    """`deterministic` tells that the same request gets the same answer: nothing is drawn, or with a given seed."""

    text: bytes
    deterministic: bool


def canonical(body: bytes, *, stream: bool) -> Canonical:
    """The form of a JSON object. A stream's options belong to it: they say which events there are.

    Raises msgspec.MsgspecError for what is none, or has numbers that nobody could hold.
    """
    fields = _decoder.decode(body)
    kept = {name: fields[name] for name in sorted(fields) if name not in _OF_NO_ACCOUNT}
    if type(messages := kept.get("messages")) is list:
        kept["messages"] = [_in_order(message) for message in messages]
    if stream:
        kept["stream_options"] = fields.get("stream_options")
    deterministic = fields.get("temperature") == 0 and type(fields["temperature"]) in _NUMBERS
    return Canonical(msgspec.json.encode(kept), deterministic or type(fields.get("seed")) in _NUMBERS)


def _in_order(message: Any) -> Any:
    """A message with its keys in order, and those of the parts of its content."""
    if type(message) is not dict:
        return message
    if type(parts := message.get("content")) is list:
        message["content"] = [dict(sorted(part.items())) if type(part) is dict else part for part in parts]
    return dict(sorted(message.items()))
