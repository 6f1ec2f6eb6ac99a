"""What `make fuzz` feeds: each target takes any bytes, and raises only where something is wrong with us.

`SEEDS` are inputs to begin from: right ones, and those that the tests damage.
"""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import islice
from math import isnan
from typing import Any

import msgspec
from tests.gateway.framing_cases import CASES, read_with_h11, read_with_httptools
from tests.gateway.understanding import Understand, understanding
from tests.robustness.bodies import bodies

from forebay.gateway.errors import error_body, refusal_from_engine, refusal_from_stream
from forebay.gateway.routes import Dialect, find_route
from forebay.policy.auth import presented
from forebay.refusals import Refusal
from forebay.wire.batch_lines import WrongLine, read_kept, read_line
from forebay.wire.body import _ENGINE_ONLY, BodyLimits, body_for_engine, most_tokens, read_demand, work_tokens
from forebay.wire.canonical import canonical
from forebay.wire.completion import read_completion
from forebay.wire.forwarded import Proxies
from forebay.wire.head import check_fields, check_host, check_json, check_line
from forebay.wire.headers import accepted_request_id, accepted_traceparent, accepted_tracestate, patience_of
from forebay.wire.length import check_length
from forebay.wire.patterns import complaint
from forebay.wire.plain import plain_object
from forebay.wire.replay import id_of, is_complete
from forebay.wire.sse import EventSplitter, EventTooLarge, data_of, events_in, has_line_starting, is_only_comments
from forebay.wire.timings import taken_from
from forebay.wire.transcript import Transcript
from forebay.wire.usage import is_aborted, read_answer, read_event, tokens_in, usage_of

LIMITS = BodyLimits(8, 20, 4, 10**6, 64, 1000, max_prompts=16, max_inputs=16, max_tools=4, max_grammar_bytes=256)
PROXIES = Proxies(("10.0.0.0/8", "::1"))
EVENT = b'data: {"id":"a-1","choices":[{"index":0,"delta":{"content":"a"},"token_ids":[1]}]}\n\n'
USAGE = b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2},"choices":[{"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def body(data: bytes) -> None:
    """A request's body. What is taken is one object to any reader, names one model and steers no engine."""
    try:
        demand = read_demand(data, LIMITS)
        check_length(data, demand.prompt_ids, 1000, ("max_completion_tokens", "max_tokens"))
    except Refusal as refusal:
        _look_at(refusal)
        return
    assert work_tokens(demand, len(data)) >= 0
    assert most_tokens(demand, len(data), 16) >= 0
    sent = body_for_engine(data, demand, "other", ask_usage=demand.stream, ask_ids=True, salt=b',"cache_salt":"ours"')
    members: list[tuple[str, Any]] = json.loads(sent.decode(), object_pairs_hook=list, parse_int=float)
    fields = dict(members)
    assert len(fields) == len(members) or demand.has_options is False, "a name comes twice"
    assert (fields["model"], fields.pop("cache_salt")) == ("other", "ours")
    assert not set(_ENGINE_ONLY) & set(fields)
    with suppress(msgspec.MsgspecError):
        canonical(data, stream=demand.stream)


def _look_at(refusal: Refusal) -> None:
    assert refusal.status == 400
    assert len(error_body(refusal, Dialect.OPENAI, "id")) < 4096


def plain(data: bytes) -> None:
    """What administrators and keys' owners send."""
    with suppress(ValueError):
        assert type(plain_object(data)) is dict
    with suppress(WrongLine):
        read_line(data)
    read_kept(data)


def answer(data: bytes) -> None:
    """What engines answer, whole or in a stream, in pieces of any size."""
    splitter, size, whole = EventSplitter(4096), (data[:1] or b"x")[0] + 1, b""
    with suppress(EventTooLarge):
        whole = b"".join(splitter.push(data[at : at + size]) for at in range(0, len(data), size))
        assert whole + splitter.rest == data
    readable = data.decode("utf-8", "replace").encode()  # as the relay makes it
    transcript = Transcript(chat=True)
    transcript.take(readable)
    transcript.read()
    events = list(events_in(readable))
    assert b"".join(events) == readable
    for event in events:
        is_only_comments(event)
        has_line_starting(event, b"data: {")
        taken_from(data_of(event))
        if (told := read_event(event)) is not None:
            usage_of(told)
            is_aborted(told)
    read_answer(readable)
    read_completion(readable)
    assert tokens_in(readable) >= 1
    for stream in (False, True):
        is_complete(readable, stream=stream, choices=1)
        id_of(readable, stream=stream)
    for refusal in (refusal_from_engine(400, readable, "messages"), refusal_from_stream(readable, "prompt")):
        for dialect in Dialect:
            error_body(refusal, dialect, "id")


def headers(data: bytes) -> None:
    """A head's fields, one a line."""
    fields = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in data.split(b"\n"))]
    found = dict(fields)
    value = fields[0][1]
    for check in (
        lambda: presented(found.get(b"authorization"), found.get(b"x-api-key")),
        lambda: patience_of(found),
        lambda: check_line(b"POST", value, "1.1"),
        lambda: check_host(found.get(b"host"), "1.1"),
        lambda: check_json(found.get(b"content-type")),
        lambda: check_fields(fields, {**found, b"content-length": b"1"}, "1.1", 100),
    ):
        with suppress(Refusal):
            told = check()
            assert not (isinstance(told, float) and isnan(told))
    accepted_request_id(value)
    accepted_traceparent(value)
    accepted_tracestate(value)
    PROXIES.client_of("10.0.0.1", value)
    find_route(b"POST", value)


def pattern(data: bytes) -> None:
    """A regular expression that an answer shall match."""
    complaint(data.decode("utf-8", "replace"))


def framing(data: bytes) -> None:
    """All bytes of a connection. No request is understood that a reference does not, or with another body."""
    understand, number = _understand(), (data[:1] or b"x")[0]
    rest = data[1:]
    cut = number * len(rest) // 256
    understood, answers = understand([rest[:cut], rest[cut:]])
    assert answers.count(b"connection: close") <= 1
    assert b"HTTP/1.1 500" not in answers
    ours = [one for one in understood if one is not None]
    for reading in (read_with_h11(rest, 1 << 20), read_with_httptools(rest)):
        theirs = [one.body for one in reading.requests if find_route(one.method.encode(), one.target.encode("latin-1"))]
        assert all(a == b for a, b in zip(understood, theirs, strict=False) if a is not None)
    assert len(ours) <= len(theirs), "more requests than uvicorn's own parser sees"


@cache
def _understand() -> Understand:
    return understanding().__enter__()


def _seeds_of_bodies() -> list[bytes]:
    return list(islice(bodies(1, 400), 400))


def _seeds_of_lines() -> list[bytes]:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}
    return [json.dumps(line).encode(), *_seeds_of_bodies()[:50]]


def _seeds_of_framing() -> list[bytes]:
    return [
        bytes([random.Random(at).randrange(256)]) + case.raw for at, case in enumerate(CASES) if len(case.raw) < 4096
    ]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "body": (body, _seeds_of_bodies),
    "plain": (plain, _seeds_of_lines),
    "answer": (
        answer,
        lambda: [EVENT * 3 + USAGE + DONE, EVENT[6:], USAGE, b'{"error":{"message":"a","code":400}}', b": ping\n\n"],
    ),
    "headers": (
        headers,
        lambda: [b"authorization: Bearer sk-x\nhost: a:1\nx-request-timeout-ms: 5", PARENT, b"x: 10.0.0.1, ::1"],
    ),
    "pattern": (pattern, lambda: [b"(a+)+$", rb"^[^\]x]{2,}(?:a?|b*)(?P<n>c)$", b"a?" * 40]),
    "framing": (framing, _seeds_of_framing),
}
