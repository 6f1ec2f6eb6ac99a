"""The connections to one engine: reuse the freshest idle one, else open another, and never keep one too long idle.

An engine closes connections that idle longer than its own limit (vLLM: 5 s), so ours are dropped before that; the
remaining race, a request sent while the engine closes, shows as a failure of a *reused* connection before any
answer, which the relay repeats once on a fresh one.
"""

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from forebay.descriptors import is_ours
from forebay.outbox import Outbox
from forebay.upstream.connection import Connection, Reader

log = logging.getLogger("forebay.upstream")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens: a Unix socket, or host and port with or without TLS.

    Where `host` was found by a name, `server_name` is that name: the Host header says it, the certificate must bear it.
    """

    host: str
    port: int = 0
    uds: str | None = None
    tls: ssl.SSLContext | None = None
    prefix: str = ""
    server_name: str | None = None

    @classmethod
    def parse(cls, url: str, ca_file: Path | None = None) -> "Address":
        """Read `http://host[:port][/prefix]`, `https://…` or `unix:///path`. Raises ValueError for anything else."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme == "unix" and parts.path:
            return cls(host="localhost", uds=parts.path)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ValueError(f"{url!r} is not http://host:port, https://host:port or unix:///path")
        secure = parts.scheme == "https"
        tls = ssl.create_default_context(cafile=ca_file) if secure else None
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if secure else 80), tls=tls, prefix=prefix)

    @property
    def authority(self) -> str:
        """The Host header's value."""
        if self.uds:
            return "localhost"
        return _authority(self.server_name or self.host, self.port)

    def __str__(self) -> str:
        if self.uds:
            return f"unix://{self.uds}"
        return f"{'https' if self.tls else 'http'}://{_authority(self.host, self.port)}{self.prefix}"


class UpstreamPool:
    """Connections to one address. `send` is synchronous; what it returns is the way to cancel or slow the answer.

    The limits may be changed at any time.
    """

    def __init__(self, address: Address, *, connect_timeout_s: float, idle_s: float, max_connections: int) -> None:
        self.address = address
        self.connect_timeout_s = connect_timeout_s
        self.idle_s = idle_s
        self.max_connections = max_connections
        self._idle: list[Connection] = []
        self._outbox = Outbox()
        self._all: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<UpstreamPool {self.address} idle={len(self._idle)} all={len(self._all)}>"

    def describe(self) -> dict[str, int]:
        return {"open": len(self._all), "idle": len(self._idle)}

    def is_full(self) -> bool:
        """Whether a request would need a connection more than allowed."""
        return not self._idle and len(self._all) >= self.max_connections

    def send(self, request: bytes, reader: Reader, *, fresh: bool = False) -> Connection:
        """Send `request` over an idle connection, or over a new one (always with `fresh`)."""
        if self._idle and not fresh:
            connection = self._idle.pop()
            if time.monotonic() - connection.idle_since < self.idle_s:
                connection.send(request, reader)
                return connection
            connection.close()  # the freshest is too old, so all are
            self.close_idle(0.0)
        connection = Connection(self._outbox, self._idle.append, self._forget)
        connection.send(request, reader)
        self._all.add(connection)
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return connection

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections that have idled longer than `older_than_s` (by default the pool's own limit)."""
        limit = time.monotonic() - (self.idle_s if older_than_s is None else older_than_s)
        for connection in [one for one in self._idle if one.idle_since <= limit]:
            connection.close()

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        for task in self._connecting:
            task.cancel()
        for connection in list(self._all):
            connection.fail("closed", "the gateway closed the connection")

    async def _connect(self, connection: Connection) -> None:
        loop, address = asyncio.get_running_loop(), self.address
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                if address.uds:
                    await loop.create_unix_connection(lambda: connection, address.uds)
                else:
                    name = address.server_name if address.tls else None
                    await loop.create_connection(
                        lambda: connection, address.host, address.port, ssl=address.tls, server_hostname=name
                    )
        except TimeoutError:
            connection.fail("connect", f"no connection to {address} within {self.connect_timeout_s:g} s")
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that no DNS could hold
            connection.fail("local" if is_ours(error) else "connect", f"no connection to {address}: {error}")

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
