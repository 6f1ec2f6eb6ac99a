"""Whose token is this? Tokens already verified, the keys that verify others, and the key set that they come from.

A verified token is known by its digest until it expires, so that it costs a look-up. Where there is a database its
tenant is held to the limits that it has there, together with the tenant's keys. The key set is read at the start
and again every `jwks_refresh_s`; a token by an unknown key has it read at once, though not more often than every
`AT_MOST_EVERY_S`, whoever asks. Where it cannot be read, what was read last stands.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from time import monotonic, time
from urllib.parse import urlsplit

from forebay.config.settings import LOOPBACK_HOSTS, Settings
from forebay.failures import Failure
from forebay.policy.auth import Found, KeyLimits, Principal
from forebay.policy.jwt import (
    Signer,
    TokenRules,
    Unverified,
    invalid,
    read_key_set,
    secret_signer,
    take_apart,
    verified,
)
from forebay.policy.known import Known
from forebay.refusals import Refusal, Unavailable
from forebay.store.directory import KeyDirectory
from forebay.upstream.fetch import fetch
from forebay.upstream.pool import Address, UpstreamPool

log = logging.getLogger("forebay.keys")

AT_MOST_EVERY_S = 10.0
TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024


class KeySetError(Exception):
    """The key set cannot be used; the message says why."""


class KeySet:
    """A JWKS in a file or behind a URL. `signers` are those it had when it was read last, None before that."""

    def __init__(self, where: str, algorithms: tuple[str, ...], ca_file: Path | None) -> None:
        self.where = where
        self.signers: list[Signer] | None = None
        self.failures = 0
        self._algorithms = algorithms
        self._failing = False
        self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._path, self._pool = None, None
        if "://" in where:
            self._request, self._pool = _way_to(where, ca_file)
        else:
            self._path = Path(where)
            self._take(self._from_file())

    def __repr__(self) -> str:
        return f"<KeySet {self.where} keys={len(self.signers or ())} failures={self.failures}>"

    @property
    def may_read(self) -> bool:
        """Whether it may be read again just now, or is being read."""
        return self._reading is not None or monotonic() - self._tried_at >= AT_MOST_EVERY_S

    async def read(self) -> None:
        """Read it again; whoever asks meanwhile waits for the same answer."""
        if self._reading is None:
            self._tried_at = monotonic()
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            if self._pool is not None:
                self._take(await self._from_url(self._pool))
            else:
                self._take(await asyncio.to_thread(self._from_file))
        except (KeySetError, Failure) as failure:
            self.failures += 1
            if not self._failing:
                log.error("the tokens' key set cannot be read", extra={"jwks": self.where, "why": str(failure)})
            self._failing = True
        else:
            if self._failing:
                log.info("the tokens' key set can be read again", extra={"jwks": self.where})
            self._failing = False
        finally:
            self._reading = None

    async def _from_url(self, pool: UpstreamPool) -> bytes:
        status, body = await fetch(pool, self._request, TIMEOUT_S)
        if status != 200:
            raise KeySetError(f"answered {status}")
        return body

    def _from_file(self) -> bytes:
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as failure:
            raise KeySetError(f"{self.where}: {failure.strerror or failure}") from None

    def _take(self, text: bytes) -> None:
        if len(text) > MAX_BYTES:
            raise KeySetError(f"larger than {MAX_BYTES} bytes")
        try:
            signers = read_key_set(text, self._algorithms)
        except ValueError as wrong:
            raise KeySetError(f"not a key set: {wrong}") from None
        if not signers:
            raise KeySetError("no key in it can be used")
        self.signers = signers

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


class Tokens:
    """Tokens as principals."""

    def __init__(self, settings: Settings, default: KeyLimits, keys: KeyDirectory | None = None) -> None:
        self.known = Known(settings.key_cache_size)
        self._keys = keys
        if keys is not None:
            keys.follow_with(self.known)
        self.refresh_s = settings.jwks_refresh_s
        self._secret = [secret_signer(settings.secret_key.get_secret_value())] if settings.secret_key else []
        self._rules = TokenRules(settings.jwt_audience, settings.jwt_issuer, settings.jwt_leeway_s, default)
        self._algorithms = {"HS256"} if settings.secret_key is not None else set()
        self.key_set: KeySet | None = None
        if settings.jwks is not None:
            self._algorithms |= set(settings.jwks_algorithms)
            self.key_set = KeySet(settings.jwks, settings.jwks_algorithms, settings.jwks_ca_file)

    def __repr__(self) -> str:
        return f"<Tokens {self.known!r} {self.key_set!r}>"

    def find(self, credential: bytes, digest: bytes, wall: float, _address: str) -> Principal | Awaitable[Found] | None:
        """Whose a token is: at once, or to be awaited where the key set is to be read. Raises `Refusal`."""
        principal = self.known.get(digest)
        if principal is not None:
            return principal
        token = take_apart(credential)
        if token.algorithm not in self._algorithms:
            raise invalid("its algorithm is not taken here")
        if signers := self._signers_for(token):
            return self._verified(token, signers, digest, wall)
        assert self.key_set is not None  # it alone can lack a key
        if self.key_set.may_read:
            return self._find_later(self.key_set, token, digest)
        raise _unknown_key(self.key_set)

    def _signers_for(self, token: Unverified) -> list[Signer]:
        """Who may have signed it. One without a key id may be anybody's with the right algorithm."""
        if token.algorithm == "HS256":
            return self._secret
        listed = (self.key_set.signers if self.key_set is not None else None) or []
        return [
            signer
            for signer in listed
            if signer.algorithm == token.algorithm and (token.key_id is None or signer.key_id == token.key_id)
        ]

    def _find_later(self, key_set: KeySet, token: Unverified, digest: bytes) -> Awaitable[Found]:
        async def find() -> Found:
            await key_set.read()
            signers = self._signers_for(token)
            if not signers:
                return _unknown_key(key_set)
            try:
                found = self._verified(token, signers, digest, time())
            except Refusal as refusal:
                return refusal
            return found if isinstance(found, Principal) else await found

        return asyncio.get_running_loop().create_task(find())

    def _verified(
        self, token: Unverified, signers: list[Signer], digest: bytes, wall: float
    ) -> Principal | Awaitable[Found]:
        principal = verified(token, signers, self._rules, wall)
        if self._keys is not None:
            limits = self._keys.limits_of(principal.tenant)
            if not isinstance(limits, KeyLimits):
                return asyncio.get_running_loop().create_task(_limited_later(principal, limits))
            principal = replace(principal, tenant_limits=limits)
        self.known.learn(digest, principal, wall)
        return principal

    async def follow(self) -> None:
        """Read the key set again and again, for ever."""
        while self.key_set is not None:
            await self.key_set.read()
            soon = self.key_set.signers is None
            await asyncio.sleep(min(AT_MOST_EVERY_S, self.refresh_s) if soon else self.refresh_s)

    def close(self) -> None:
        if self.key_set is not None:
            self.key_set.close()


async def _limited_later(principal: Principal, limits: Awaitable[KeyLimits | Refusal]) -> Found:
    """Not remembered, as the limits may have changed by now: the next time they are there at once."""
    found = await limits
    return found if isinstance(found, Refusal) else replace(principal, tenant_limits=found)


def _unknown_key(key_set: KeySet) -> Refusal:
    if key_set.signers is None:
        return Unavailable("The tokens' key set cannot be read just now.", code="keys_unavailable", retry_after_s=2)
    return invalid("it was signed by a key that is not known here")


def _way_to(url: str, ca_file: Path | None) -> tuple[bytes, UpstreamPool]:
    """The request for a URL, and the connections to where it is. Raises `KeySetError`."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS):
            raise KeySetError("must be https:// (or http:// on loopback)")
        address = Address.parse(f"{parts.scheme}://{parts.netloc}", ca_file)
    except (ValueError, OSError) as wrong:
        raise KeySetError(str(wrong)) from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise KeySetError("its path is not plain ASCII")
    pool = UpstreamPool(address, connect_timeout_s=TIMEOUT_S, idle_s=1.0, max_connections=2)
    head = f"GET {target} HTTP/1.1\r\nhost: {address.authority}\r\naccept: application/json\r\n\r\n"
    return head.encode(), pool
