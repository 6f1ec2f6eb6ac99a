"""Which conversation is it part of? A number that stays the same through a conversation, and differs between tenants.

An engine keeps the attention state (KV cache) of prompts it has seen; the next turn of a conversation starts with the
last one's prompt, so on the same engine only what is new must be computed. The number is a hash of the tenant and the
first of these that there is:

    1. the header `x-session-id`
    2. the body's `prompt_cache_key`
    3. chats: the messages up to and including the first of the user's (these open every later turn too), with
       Anthropic's `system` and the Responses API's `instructions`; its `input` is a text or a list of such messages
    4. completions: the first `PROMPT_BYTES` of `prompt`

Where there is none, the number is the caller's; it says nothing of caches, and only keeps a caller in one group of
replicas. The body is looked at shallowly, as bytes; a shape that is none of these is an engine's to refuse, not ours.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from msgspec import Raw

from forebay.policy.auth import Principal

PROMPT_BYTES = 1024
_END_BYTES = 8192  # of a longer text both ends count: an attached book shall not cost its length
_ABSENT = (b"", b"null", b'""')
_MARK, _MARK_VALUE = b'"cache_control"', re.compile(rb" ?: ?\{[^{}]*+\}")
_MARKS_AT_MOST = _MESSAGES_AT_MOST = 64


class Affinity(NamedTuple):
    """A number of 64 bits; `conversation` says whether it is a conversation's, or only the caller's."""

    number: int
    conversation: bool


class _Body(msgspec.Struct):
    prompt_cache_key: Raw = Raw()
    messages: Raw = Raw()
    system: Raw = Raw()
    instructions: Raw = Raw()
    input: Raw = Raw()
    prompt: Raw = Raw()


class _Message(msgspec.Struct):
    role: str = ""


_body_decoder = msgspec.json.Decoder(_Body)
_list_decoder = msgspec.json.Decoder(list[Raw])
_message_decoder = msgspec.json.Decoder(_Message)


def affinity_of(principal: Principal, session_id: bytes | None, body: bytes) -> Affinity:
    """What ties a request to others. Never raises, whatever the body is."""
    parts = [b"session", session_id] if session_id else _conversation(body)
    if parts:
        return Affinity(_number(principal.tenant, parts), True)
    return Affinity(_number(principal.key_id, []), False)


def _conversation(body: bytes) -> list[bytes]:
    """The parts of a body that its whole conversation shares; none where there is no telling."""
    try:
        fields = _body_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return []
    if (key := bytes(fields.prompt_cache_key)) not in _ABSENT:
        return [b"key", key]
    opening = _opening(bytes(fields.messages)) or _opening(bytes(fields.input))
    if opening:
        return [b"chat", bytes(fields.system), bytes(fields.instructions), *opening]
    prompt = bytes(fields.prompt)
    return [b"prompt", prompt[:PROMPT_BYTES]] if prompt not in _ABSENT else []


def _opening(messages: bytes) -> list[bytes]:
    """A list's items up to and including the first of the user's; a text as it is."""
    if messages[:1] == b'"':
        return [messages] if messages not in _ABSENT else []
    if messages[:1] != b"[":
        return []
    opening = []
    for message in _list_decoder.decode(messages)[:_MESSAGES_AT_MOST]:
        opening.append(bytes(message))
        if b'"user"' in opening[-1] and _is_users(opening[-1]):
            break
    return opening


def _is_users(message: bytes) -> bool:
    try:
        return _message_decoder.decode(message).role == "user"
    except msgspec.DecodeError:
        return False


def _number(whose: str, parts: list[bytes]) -> int:
    text = b"\0".join((whose.encode(errors="replace"), *parts))
    if _MARK in text:
        text = _unmarked(text)
    if len(text) > 2 * _END_BYTES:
        text = text[:_END_BYTES] + text[-_END_BYTES:]
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _unmarked(text: bytes) -> bytes:
    """Without the marks that Anthropic's clients move on from turn to turn. (Searching for a pattern takes ages.)"""
    first, *rest = text.split(_MARK, _MARKS_AT_MOST)
    pieces = [first]
    for piece in rest:
        value = _MARK_VALUE.match(piece)
        if value is None:
            pieces.append(_MARK + piece)
            continue
        pieces[-1] = pieces[-1].rstrip(b", ")
        pieces.append(piece[value.end() :])
    return b"".join(pieces)
