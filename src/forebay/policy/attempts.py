"""How many keys that are nobody's has an address tried? Beyond some in a minute it is told 429 instead of 401.

Whoever tries keys finds none, they are too long for that; what it costs is ours: look-ups in the database, and lines in
the log. A key is looked at first and the count asked only where it is nobody's, so a key that is somebody's works from
any address, and no number of wrong keys locks one out. Where a key has to be looked up elsewhere, an address that has
tried too many has one look-up under way at a time, and any other as many as leave room for the rest: new keys of
others are found while somebody tries keys.

An address is that of one host, or an IPv6 network of 64 bits, which is what one host has. The last `MOST_ADDRESSES`
that failed are remembered.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from forebay.refusals import RateLimited, Unauthorized

WINDOW_S = 60.0
MOST_ADDRESSES = 10_000
MOST_LOOK_UPS = 100
USUAL_MOST = 60
_LIMIT = ("failed_keys", "address")


class Attempts:
    """Failures by address, at most `most` a minute; and the look-ups that are under way. `wall` is in seconds."""

    def __init__(self, most: int = USUAL_MOST) -> None:
        self._most = most
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, and how many
        self._look_ups: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Attempts {len(self._failed)} addresses failed, look-ups of {len(self._look_ups)}>"

    def failed(self, refusal: Unauthorized, address: str, wall: float) -> Unauthorized | RateLimited:
        """Count a key that was nobody's, and return what its caller is told."""
        host = _host(address)
        since, count = self._count(host, wall)
        self._failed[host] = (since, count + 1)
        self._failed.move_to_end(host)
        if len(self._failed) > MOST_ADDRESSES:
            self._failed.popitem(last=False)
        return refusal if count < self._most else _too_many(since + WINDOW_S - wall, should_retry=False)

    def begin_look_up(self, address: str, wall: float) -> str:
        """Whose look-up it is: to be given to `end_look_up`. Raises `RateLimited`."""
        host = _host(address)
        under_way = self._look_ups.get(host, 0)
        if under_way >= (MOST_LOOK_UPS if self._count(host, wall)[1] < self._most else 1):
            raise _too_many(1.0)
        self._look_ups[host] = under_way + 1
        return host

    def end_look_up(self, host: str) -> None:
        if (left := self._look_ups[host] - 1) > 0:
            self._look_ups[host] = left
        else:
            del self._look_ups[host]

    def _count(self, host: str, wall: float) -> tuple[float, int]:
        since, count = self._failed.get(host, (wall, 0))
        return (since, count) if 0 <= wall - since < WINDOW_S else (wall, 0)  # a clock may be set back


def _host(address: str) -> str:
    """What of an address one host has; it is only asked for where a key is not known."""
    if ":" not in address:
        return address
    ip = ip_address(address)
    assert isinstance(ip, IPv6Address)
    return str(ip.ipv4_mapped or ip.packed[:8].hex())


def _too_many(wait_s: float, *, should_retry: bool | None = None) -> RateLimited:
    refusal = RateLimited(
        "Too many keys that are not valid came from this address. Check the key, or try again later.",
        code="too_many_invalid_keys",
        retry_after_s=wait_s,
        should_retry=should_retry,
    )
    refusal.limit = _LIMIT
    return refusal
