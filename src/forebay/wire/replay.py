"""An engine's answer as something that may be said again: whether it is complete, and the same under another id. Pure.

Complete is an answer that came to its own end: every choice has a reason to have finished, and a good one. That the
stream was not cut, and was no error, its relay has seen.
"""

import re

import msgspec

from forebay.wire.sse import data_of, events_in
from forebay.wire.usage import read_answer, read_event

_GOOD = frozenset({"stop", "length", "tool_calls", "function_call"})
_GOOD_OF_MESSAGES = frozenset({"end_turn", "max_tokens", "stop_sequence", "tool_use"})
_KIND = re.compile(r"(?:[A-Za-z]+[-_])?")
_FINISHES = (b'"finish_reason"', b'"stop_reason"')


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _Answer(msgspec.Struct):
    """The ways in which answers, and the events of streams, tell that they are over."""

    choices: list[_Choice] | None = None
    delta: _Delta | None = None
    stop_reason: str | None = None
    data: list[msgspec.Raw] | None = None  # embeddings


_decoder = msgspec.json.Decoder(_Answer)


def is_complete(body: bytes, *, stream: bool, choices: int) -> bool:
    """Whether a whole answer, or a stream's events, came to their own end; `choices` are as many as were asked for."""
    told = [data_of(event) for event in _closing_events(body)] if stream else [body]
    try:
        answers = [_decoder.decode(data) for data in told]
    except (msgspec.DecodeError, RecursionError):
        return False
    reasons = {
        choice.index: choice.finish_reason
        for answer in answers
        for choice in answer.choices or ()
        if choice.finish_reason is not None or not stream
    }
    if reasons:
        return len(reasons) >= choices and _GOOD.issuperset(reasons.values())
    last = answers[-1] if answers else _Answer()
    said = last.delta.stop_reason if last.delta is not None else last.stop_reason
    return said in _GOOD_OF_MESSAGES or (bool(last.data) and not stream)


def _closing_events(events: bytes) -> list[bytes]:
    """The events that may say why a choice, or the answer, is over; most do not."""
    return [event for event in events_in(events) if any(word in event for word in _FINISHES)]


def id_of(body: bytes, *, stream: bool) -> str:
    """The id that an answer bears, once or in each of its events; empty where it has none."""
    answer = read_event(next(events_in(body), b"")) if stream else read_answer(body)
    if answer is None:
        return ""
    return answer.id or (answer.message.id if answer.message is not None else None) or ""


def with_id(body: bytes, old: str, unique: str) -> bytes:
    """The answer under an id of its own: of the kind that the old one is, such as `chatcmpl-`, and `unique`.

    The old one is found with its quotes: inside a text that a model wrote, a quote is escaped.
    """
    if not old:
        return body
    kind = _KIND.match(old)
    assert kind is not None
    return body.replace(f'"{old}"'.encode(), f'"{kind.group()}{unique}"'.encode())
