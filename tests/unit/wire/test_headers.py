"""Ids and trace context."""

import os

import pytest

from forebay.wire.headers import RequestIds, accepted_request_id, accepted_traceparent, accepted_tracestate, limits_told


def test_ids_are_of_32_digits_and_none_comes_twice() -> None:
    ids = RequestIds(os.urandom)
    made = [ids.next() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in made)


@pytest.mark.parametrize("value", [b"a", b"req-1_x.Y", b"x" * 128, b"sk-1"])
def test_a_well_formed_request_id_is_taken(value: bytes) -> None:
    assert accepted_request_id(value) == value.decode()


@pytest.mark.parametrize("value", [None, b"", b"x" * 129, b"a b", b"a\r\nx: y", b"\xff", b"a;b", b"sk-" + b"a" * 20])
def test_any_other_is_not(value: bytes | None) -> None:
    assert accepted_request_id(value) is None


GOOD = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"


def test_a_well_formed_traceparent_is_taken_and_no_other() -> None:
    assert accepted_traceparent(GOOD) == GOOD
    bad = [None, b"", GOOD[:-1], b"01" + GOOD[2:], GOOD.upper(), GOOD.replace(b"-", b"0"), GOOD.replace(b"a", b"0")]
    assert [accepted_traceparent(value) for value in bad] == [None] * len(bad)


def test_a_tracestate_is_passed_on_as_it_is_or_not_at_all() -> None:
    assert accepted_tracestate(b"vendor=a,other=b") == b"vendor=a,other=b"
    bad = [None, b"", b"x" * 513, b"a=\xff", b"a=b\tc"]
    assert [accepted_tracestate(value) for value in bad] == [b""] * len(bad)


def test_what_header_lines_say_of_limits_is_read_and_nothing_else() -> None:
    lines = (
        b"x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 59\r\nx-ratelimit-reset-requests: 1m0s\r\n"
        b"x-ratelimit-limit-tokens: -1\r\nx-forebay-cache: hit\r\nno line"
    )
    assert limits_told(lines) == {"limit_requests": 60, "remaining_requests": 59}
    assert limits_told(b"") == {}
