"""Keys that are nobody's, counted by address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy import attempts
from forebay.policy.attempts import MOST_LOOK_UPS, Attempts
from forebay.refusals import RateLimited, Unauthorized

WRONG = Unauthorized("wrong")


def fail(tried: Attempts, address: str, now: float, times: int = 1) -> Unauthorized | RateLimited:
    told = [tried.failed(WRONG, address, now) for _ in range(times)]
    return told[-1]


def test_so_many_wrong_keys_a_minute_are_told_401_and_further_ones_429_until_the_minute_is_over() -> None:
    tried = Attempts(3)
    assert fail(tried, "192.0.2.1", 100.0, 3) is WRONG
    told = fail(tried, "192.0.2.1", 130.0)
    assert (told.status, told.code, told.retry_after_s, told.should_retry) == (429, "too_many_invalid_keys", 30, False)
    assert fail(tried, "192.0.2.2", 130.0) is WRONG, "another address has its own count"
    assert fail(tried, "192.0.2.1", 159.9).status == 429
    assert fail(tried, "192.0.2.1", 160.0) is WRONG


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
    ],
)
def test_an_address_is_a_host_or_the_network_that_one_host_has(one: str, other: str, same: bool) -> None:
    tried = Attempts(1)
    fail(tried, one, 0.0)
    assert (fail(tried, other, 0.0) is not WRONG) == same


def test_addresses_without_end_take_bounded_memory() -> None:
    tried = Attempts(1)
    for number in range(attempts.MOST_ADDRESSES + 50):
        fail(tried, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(tried._failed) == attempts.MOST_ADDRESSES
    assert fail(tried, "10.0.0.0", 0.0) is WRONG, "the longest unused is forgotten"


def test_a_clock_that_is_set_back_begins_the_minute_anew() -> None:
    tried = Attempts(1)
    fail(tried, "192.0.2.1", 1e6)
    assert fail(tried, "192.0.2.1", 1e6 - 3600) is WRONG


def test_an_address_that_fails_has_one_look_up_at_a_time_and_others_as_many_as_leave_room() -> None:
    tried = Attempts(2)
    hosts = [tried.begin_look_up("192.0.2.1", 0.0) for _ in range(MOST_LOOK_UPS)]
    with pytest.raises(RateLimited) as refused:
        tried.begin_look_up("192.0.2.1", 0.0)
    assert (refused.value.retry_after_s, refused.value.should_retry) == (1.0, None), "it may well be a valid key"
    assert tried.begin_look_up("192.0.2.2", 0.0) == "192.0.2.2"
    for host in hosts:
        tried.end_look_up(host)
    fail(tried, "192.0.2.1", 0.0, 2)
    only = tried.begin_look_up("192.0.2.1", 0.0)
    with pytest.raises(RateLimited):
        tried.begin_look_up("192.0.2.1", 0.0)
    tried.end_look_up(only)
    tried.end_look_up(tried.begin_look_up("192.0.2.1", 0.0))
    tried.end_look_up("192.0.2.2")
    assert tried._look_ups == {}


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 300)), max_size=60), st.integers(1, 5))
def test_no_address_is_told_401_more_often_than_that_in_a_window_and_none_pays_for_another(
    events: list[tuple[str, float]], most: int
) -> None:
    tried, alone = Attempts(most), {address: Attempts(most) for address in "abc"}
    for address, now in sorted(events, key=lambda event: event[1]):
        assert type(fail(tried, address, now)) is type(fail(alone[address], address, now))
