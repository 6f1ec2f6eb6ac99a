"""A head that has been read before is known again, with any length of body and with nothing else changed."""

import pytest

from forebay.wire.known_head import KnownHead

HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX-Api-Key: sk-secret\r\n\r\n"


def message(body: bytes, head: bytes = HEAD) -> bytes:
    return head % len(body) + body


@pytest.fixture
def known() -> KnownHead[str]:
    found = KnownHead.of(message(b"{}"), "read")
    assert found is not None
    return found


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 9_999, 10_000, 99_999, 100_000, 1_000_000])
def test_a_message_of_any_length_has_the_head(known: KnownHead[str], size: int) -> None:
    assert known.body_of(message(b"b" * size)) == b"b" * size


@pytest.mark.parametrize("told", [2, 9, 10, 11, 99, 100, 101, 999, 1000, 1001, 9_999, 10_000, 99_999, 100_000])
@pytest.mark.parametrize("off", [-2, -1, 1, 2])
def test_a_body_of_another_length_than_told_is_the_parsers(known: KnownHead[str], told: int, off: int) -> None:
    assert known.body_of(HEAD % told + b"b" * (told + off)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        message(b"body")[:-1],
        message(b"body") + b"!",
        message(b"body") * 2,
        message(b"body").replace(b"Length: 4", b"Length: 04"),
        message(b"body").replace(b"Length: 4", b"Length: +4"),
        message(b"body").replace(b"Length: 4", b"Length:  4"),
        message(b"body").replace(b"Length: 4", b"Length: 4 "),
        message(b"body").replace(b"Length", b"length"),
        message(b"body").replace(b"sk-secret", b"sk-secreT"),
        message(b"body").replace(b"POST /x", b"POST /y"),
        message(b"body").replace(b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked"),
        HEAD[: HEAD.index(b"%")],
    ],
)
def test_anything_else_is_another_head(known: KnownHead[str], data: bytes) -> None:
    assert known.body_of(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /content-length HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /x HTTP/1.1\r\nContent-Length:2\r\n\r\n{}",
        message(b"body")[:-1],
        message(b"body") + b"POST",
        b"no head at all",
        b"",
    ],
)
def test_what_is_not_plain_is_not_known(data: bytes) -> None:
    assert KnownHead.of(data, "read") is None


def test_no_key_is_shown(known: KnownHead[str]) -> None:
    assert "secret" not in repr(known)
