"""Engines behind one name: each of its A and AAAA records is a replica. Made for the name of a headless Service.

The name is looked up every `interval_s`, one look-up at a time: one that has not come back is waited for, not repeated,
since each holds a thread. An answer without any address is kept out like a failure, because a resolver that hiccups
must not empty a pool; the last engine of a name therefore leaves by failing its health checks.
"""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from forebay.replicas.discovery.source import MAX_ENDPOINTS, Endpoint, Endpoints, Outage, split_group
from forebay.upstream.pool import Address

LOOK_UP_S = 5.0
FIRST_TIME_S = 1.0  # between look-ups while there has been no good one

Resolve = Callable[[str], Awaitable[list[str]]]


async def system_resolver(host: str) -> list[str]:
    """The IP addresses of a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class DnsSource:
    """`dns://host:port` or `dns+https://host:port`. Raises ValueError for anything else."""

    def __init__(
        self,
        url: str,
        ca_file: Path | None = None,
        interval_s: float = 5.0,
        *,
        resolve: Resolve = system_resolver,
        look_up_s: float = LOOK_UP_S,
    ) -> None:
        self.name = url
        self.outage = Outage(url)
        plain, self._group = split_group(url)
        self._address = _parse(plain, ca_file)
        self._interval_s = interval_s
        self._resolve = resolve
        self._look_up_s = look_up_s
        self._looking: asyncio.Future[list[str]] | None = None

    async def observe(self) -> AsyncIterator[Endpoints]:
        found: Endpoints = frozenset()
        try:
            while True:
                seen = frozenset(self._endpoint(host) for host in await self._hosts())
                if seen and seen != found:
                    found = seen
                    yield found
                pause_s = self._interval_s if found else min(self._interval_s, FIRST_TIME_S)
                await asyncio.sleep(pause_s * random.uniform(0.9, 1.1))  # noqa: S311
        finally:
            if self._looking is not None:
                self._looking.cancel()

    def _endpoint(self, host: str) -> Endpoint:
        return Endpoint.at(replace(self._address, host=host, server_name=self._address.host), self._group)

    async def _hosts(self) -> list[str]:
        """The name's addresses; none where they cannot be told just now."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._resolve(self._address.host))
        done, _ = await asyncio.wait({self._looking}, timeout=self._look_up_s)
        if not done:
            self.outage.failed(f"no answer within {self._look_up_s:g} s")
            return []
        looking, self._looking = self._looking, None
        try:
            hosts = looking.result()
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that no DNS could hold
            self.outage.failed(str(error))
            return []
        if not 0 < len(hosts) <= MAX_ENDPOINTS:
            self.outage.failed(f"the name has {len(hosts)} addresses")
            return []
        self.outage.over()
        return hosts


def _parse(url: str, ca_file: Path | None) -> Address:
    scheme, _, rest = url.partition("://")
    plain = {"dns": "http", "dns+https": "https"}.get(scheme)
    try:
        return Address.parse(f"{plain}://{rest}", ca_file)
    except ValueError:
        raise ValueError(f"{url!r} is not dns://host:port or dns+https://host:port") from None
