"""The server's reading of HTTP/1.1 against h11's and uvicorn's, over valid and damaged bytes, split anywhere."""

import re
from collections.abc import Iterator
from itertools import takewhile

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.gateway.routes import find_route
from tests.gateway.framing_cases import Asked, conversations, mutated, pieces, read_with_h11, read_with_httptools
from tests.gateway.understanding import Understand, understanding


@pytest.fixture(scope="module")
def understand() -> Iterator[Understand]:
    with understanding() as feed:
        yield feed


ANY_TIME = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY_TIME
@given(conversation=conversations(), data=st.data())
def test_valid_requests_are_understood_however_they_are_split(
    conversation: tuple[bytes, tuple[Asked, ...]], data: st.DataObject, understand: Understand
) -> None:
    raw, right = conversation
    bodies, answers = understand(data.draw(pieces(raw)))
    until_asgi = list(takewhile(lambda one: one.method == "POST", right))  # the application answers in its own time
    assert bodies[: len(until_asgi)] == [one.body for one in until_asgi]
    assert b"HTTP/1.1 400" not in answers


@ANY_TIME
@given(raw=mutated(), data=st.data())
def test_damaged_bytes_are_never_read_otherwise_than_by_both_references(
    raw: bytes, data: st.DataObject, understand: Understand
) -> None:
    bodies, answers = understand(data.draw(pieces(raw)))
    posts = [
        [one.body for one in reading.requests if find_route(one.method.encode(), one.target.encode("latin-1"))]
        for reading in (read_with_h11(raw, 1 << 20), read_with_httptools(raw))
    ]
    for number, ours in enumerate(bodies):
        for theirs in posts:
            assert ours is None or number >= len(theirs) or theirs[number] == ours
    accepted = [body for body in bodies if body is not None]
    assert len(accepted) <= len(posts[1]), "more requests than uvicorn's own parser sees"
    assert answers.count(b"connection: close") <= 1


def statuses(answers: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d\d\d) ", answers)


def chat(body: bytes, after_length: bytes = b"") -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Api-Key: sk-test\r\n"
    return b"%sContent-Length: %d%s\r\n\r\n%s" % (head, len(body), after_length, body)


@ANY_TIME
@given(
    bodies=st.lists(
        st.sampled_from(
            [b"", b"x", b"y" * 9, b"z" * 10, b"z" * 11, b"z" * 99, b"z" * 100, b"z" * 101, b"\r\n\r\n", b"{}"]
        ),
        max_size=6,
    ),
    data=st.data(),
)
def test_a_head_that_is_known_is_read_as_one_that_is_parsed(
    bodies: list[bytes], data: st.DataObject, understand: Understand
) -> None:
    """Whole messages, some damaged in one place, some in pieces, some two at a time, behind two that teach the head."""
    parts = [chat(b"first"), chat(b"second!")]
    for body in bodies:
        message = chat(body, data.draw(st.sampled_from([b"", b"", b"\r\nOrigin: http://x"])))
        if data.draw(st.booleans()):
            at, byte = data.draw(st.integers(0, len(message) - 1)), data.draw(st.sampled_from(b"\r\n :0129aP\x00"))
            message = message[:at] + bytes([byte]) + message[at + data.draw(st.integers(0, 2)) :]
        message = message[: len(message) - data.draw(st.integers(0, 1))]
        parts += data.draw(st.one_of(st.just([message]), pieces(message), st.just([message * 2])))
    knowing, answers = understand(parts)
    parsed, others = understand(parts, forgetful=True)
    assert (knowing, statuses(answers)) == (parsed, statuses(others))
    assert knowing[:2] == [b"first", b"second!"]


def test_the_parser_underneath_still_refuses_what_we_rely_on_it_for() -> None:
    """If a new llhttp became lenient by default, this would say so before an attacker does."""
    for head in (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 1\r\nContent-Length: 1\r\n"):
        with pytest.raises(httptools.HttpParserError):
            httptools.HttpRequestParser(object()).feed_data(b"POST / HTTP/1.1\r\n" + head + b"\r\n")
