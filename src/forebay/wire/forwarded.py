"""Who the client is where proxies stand in front.

Each proxy appends to X-Forwarded-For the address that it was called from, so the list is true from its end, as far as
proxies of ours wrote it: the client is the last address that is none of theirs. What stands before it anybody may have
written, and what is no address is not believed at all.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network


class Proxies:
    """Those whose word is taken, by address and network."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = tuple(ip_network(network) for network in networks)
        self.trusts = lru_cache(1024)(self._trusts)

    def __repr__(self) -> str:
        return f"<Proxies {', '.join(map(str, self._networks))}>"

    def client_of(self, peer: str, forwarded_for: bytes) -> str:
        """The client's address, where a proxy called from `peer` and sent this header."""
        client = peer
        for told in reversed(forwarded_for.decode("latin-1").split(",")):
            address = _plain(told)
            if address is None:
                break
            client = address
            if not self.trusts(address):
                break
        return client

    def _trusts(self, address: str) -> bool:
        plain = _plain(address)
        return plain is not None and any(ip_address(plain) in network for network in self._networks)


def _plain(text: str) -> str | None:
    """An address in its one usual form, an IPv4 one as such even where it came as IPv6; None where it is none."""
    try:
        address = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)
