"""The certificate that callers are shown, and the next one: files that have changed are read again, without a restart.

Connections that are open go on. While the new files cannot be read or do not belong together, as where one of them is
still to be written, the old certificate is shown on, and the log says why.
"""

import asyncio
import logging
import ssl
from pathlib import Path

log = logging.getLogger("forebay.gateway")

LOOK_EVERY_S = 1.0

Signature = tuple[tuple[int, int, int], ...]


class Certificate:
    """A chain and its key, in two files. `expires_at` is the Unix time at which the first of the chain to expire does;
    None where that cannot be read."""

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._read = self._tried = self._signature()
        self._next: ssl.SSLContext | None = None  # in the place of the one that the servers began with
        self.expires_at = expiry_of(chain)

    def __repr__(self) -> str:
        return f"<Certificate {self._chain} expires_at={self.expires_at}>"

    def shown_by(self, server: ssl.SSLContext) -> None:
        """Have a server show this one from now on."""
        server.sni_callback = self._show

    async def watch(self) -> None:
        """Follow the files for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Read the files if they have changed."""
        now = self._signature()
        if now in (self._read, self._tried):
            return
        self._tried = now
        following = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            following.load_cert_chain(self._chain, self._key, password="")  # else OpenSSL would ask at the terminal
        except OSError as failure:
            log.error("the new certificate cannot be shown; the old one is", extra={"why": str(failure)})
            return
        self._read, self._next, self.expires_at = now, following, expiry_of(self._chain)
        log.info("another certificate is shown", extra={"file": str(self._chain), "expires_at": self.expires_at})

    def _show(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _server: ssl.SSLContext) -> None:
        """A client begins a handshake."""
        if self._next is not None:
            connection.context = self._next

    def _signature(self) -> Signature:
        """What tells these versions of the files from others; empty where one is not there."""
        try:
            found = [file.stat() for file in (self._chain, self._key)]
        except OSError:
            return ()
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)


def expiry_of(chain: Path) -> float | None:
    """The Unix time at which the first of a file's certificates to expire does; None where it has none to read."""
    from cryptography.x509 import load_pem_x509_certificates  # takes time to load, and only TLS needs it

    try:
        certificates = load_pem_x509_certificates(chain.read_bytes())
    except (OSError, ValueError):
        return None  # the server says it better
    return min(one.not_valid_after_utc for one in certificates).timestamp()
