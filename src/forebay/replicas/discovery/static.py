"""Engines at addresses that the settings name: the set is known at once and never changes.

A host name among them is one replica, resolved for each connection; `dns.py` makes one of each of its addresses.
"""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from forebay.replicas.discovery.source import Endpoint, Endpoints, Outage, split_group
from forebay.upstream.pool import Address


class StaticSource:
    """All static URLs. Raises ValueError for a bad one."""

    name = "static"

    def __init__(self, urls: Iterable[str], ca_file: Path | None = None) -> None:
        self.outage = Outage(self.name)
        parted = [split_group(url) for url in urls]
        self._endpoints = frozenset(Endpoint.at(Address.parse(url, ca_file), group) for url, group in parted)

    async def observe(self) -> AsyncIterator[Endpoints]:
        yield self._endpoints
