"""Who the client is, by what proxies say."""

import pytest

from forebay.wire.forwarded import Proxies

PROXIES = Proxies(["10.0.0.0/8", "192.0.2.1", "fd00::/8"])


@pytest.mark.parametrize(
    ("told", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, 10.9.9.9", "203.0.113.9"),  # a proxy behind a proxy
        (b"198.51.100.7, 203.0.113.9", "203.0.113.9"),  # the first is the client's own word
        (b"127.0.0.1,203.0.113.9,10.1.1.1,192.0.2.1", "203.0.113.9"),
        (b"10.3.3.3", "10.3.3.3"),  # all of them ours: the one that asked first
        (b"2001:db8::1", "2001:db8::1"),
        (b"::ffff:203.0.113.9", "203.0.113.9"),
        (b" 203.0.113.9 ", "203.0.113.9"),
        (b"", "10.0.0.1"),
        (b"unknown", "10.0.0.1"),
        (b"unknown, 10.2.2.2", "10.2.2.2"),
        (b"203.0.113.9:5000", "10.0.0.1"),
        (b"\xff\xfe", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy_of_ours(told: bytes, client: str) -> None:
    assert PROXIES.client_of("10.0.0.1", told) == client


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.1", "fd00::1", "::ffff:10.0.0.1"])
def test_an_address_of_the_list_is_a_proxys(address: str) -> None:
    assert PROXIES.trusts(address)


@pytest.mark.parametrize("address", ["203.0.113.9", "192.0.2.2", "2001:db8::1", "", "localhost"])
def test_no_other_is(address: str) -> None:
    assert not PROXIES.trusts(address)
    assert not Proxies([]).trusts(address)
