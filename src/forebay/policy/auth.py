"""Who is this? A key or token presented as `Authorization: Bearer …` or `x-api-key` becomes a principal, or is refused.

Keys are compared by their SHA-256: looking a digest up tells nothing about the key through time, and no key is kept
in memory in the clear. The last comparison is constant-time all the same. The configured keys are known here; who else
may know a credential (the keys' database, the tokens' signers) is asked after them, and may have to be waited for.
Those that are nobody's are counted by the caller's address (`attempts.py`).
"""

import hmac
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

from forebay.policy.attempts import Attempts
from forebay.refusals import Forbidden, Refusal, Unauthorized

MAX_KEY_BYTES = 512
MAX_TOKEN_BYTES = 8192
_VISIBLE = bytes(range(0x21, 0x7F))


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key, or one tenant, may use; None where it is not bounded."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None


UNLIMITED = KeyLimits()
INFERENCE = frozenset({"inference"})
CALLER = frozenset({"inference", "metrics"})
ADMIN = frozenset({"admin"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request belongs to. `key_id` may be shown and logged; it does not reveal the key.

    `models` are those that it may use, None for all; a higher `priority` class goes first; `weight` is its tenant's
    share where tenants compete; `expires_at` is wall-clock seconds.
    """

    tenant: str
    key_id: str
    scopes: frozenset[str] = INFERENCE
    models: frozenset[str] | None = None
    priority: int = 0
    weight: float = 1.0
    limits: KeyLimits = UNLIMITED
    tenant_limits: KeyLimits = UNLIMITED
    expires_at: float | None = None

    def may_use(self, *names: str | None) -> bool:
        """Whether it may use the model that has these names."""
        return self.models is None or not self.models.isdisjoint(names)


ANONYMOUS = Principal(tenant="anonymous", key_id="anonymous", scopes=CALLER)
Found = Principal | Refusal


class Source(Protocol):
    """Who else may know a credential: at once (None: nobody's), or when what it returns has been awaited."""

    def find(
        self, credential: bytes, digest: bytes, wall: float, address: str
    ) -> Principal | Awaitable[Found] | None: ...


class Authenticator:
    """Knows the configured keys and asks its sources for others; `anonymous` is whoever calls where no key is asked."""

    def __init__(
        self,
        fixed: Mapping[str, Principal],
        *,
        anonymous: Principal | None = None,
        keys: Source | None = None,
        tokens: Source | None = None,
        attempts: Attempts | None = None,
    ) -> None:
        digests = ((sha256(key.encode()).digest(), principal) for key, principal in fixed.items())
        self._fixed = {digest: (digest, principal) for digest, principal in digests}
        self.anonymous = anonymous
        self._keys = keys
        self._tokens = tokens
        self._attempts = attempts or Attempts()

    def __repr__(self) -> str:
        return f"<Authenticator {len(self._fixed)} keys, {self._keys!r}, {self._tokens!r}>"

    def authenticate(
        self, authorization: bytes | None, api_key: bytes | None, wall: float, address: str = ""
    ) -> Principal | Awaitable[Found]:
        """Whom the two headers name; where that is to be waited for, pass what came to `settled`. Raises `Refusal`."""
        return self.anonymous or self.recognise(presented(authorization, api_key), wall, address)

    def recognise(self, presented: "Credential", wall: float, address: str) -> Principal | Awaitable[Found]:
        """Whose a credential is, with nobody anonymous; it came from `address`. Raises `Refusal`."""
        credential, digest = presented
        fixed = self._fixed.get(digest)
        if fixed is not None and hmac.compare_digest(fixed[0], digest):
            return fixed[1]
        try:
            return self._find(credential, digest, wall, address)
        except Unauthorized as refusal:
            raise self._attempts.failed(refusal, address, wall) from None

    def settled(self, found: Found, wall: float, address: str) -> Principal:
        """The principal that was waited for. Raises `Refusal`."""
        try:
            return _valid(found, wall)
        except Unauthorized as refusal:
            raise self._attempts.failed(refusal, address, wall) from None

    def _find(self, credential: bytes, digest: bytes, wall: float, address: str) -> Principal | Awaitable[Found]:
        is_token = credential.startswith(b"eyJ") and credential.count(b".") == 2
        source = self._tokens if is_token and self._tokens is not None else self._keys
        if source is None:
            raise not_ours()
        if len(credential) > MAX_KEY_BYTES and source is not self._tokens:
            raise Unauthorized("The API key is not well-formed.")
        found = source.find(credential, digest, wall, address)
        if found is None:
            raise not_ours()
        return _valid(found, wall) if isinstance(found, Principal) else found


def _valid(found: Found, wall: float) -> Principal:
    """The principal that was found, unless its time is over. Raises `Refusal`."""
    if isinstance(found, Refusal):
        raise found
    if found.expires_at is not None and wall >= found.expires_at:
        raise Unauthorized("The API key has expired.")
    return found


def not_ours() -> Unauthorized:
    return Unauthorized("The API key is not valid. Use a key that this service's operator gave you.")


def require(principal: Principal, scope: str) -> None:
    """Return if the principal has the scope. Raises `Forbidden`."""
    if scope not in principal.scopes:
        raise Forbidden(f"This key does not have the scope {scope!r}.")


def fixed_keys(
    api_keys: Iterable[str], admin_keys: Iterable[str], own_limits: Mapping[str, int], default: KeyLimits
) -> dict[str, Principal]:
    """The configured keys: callers', with requests a minute where a key has its own number, and administrators'."""
    known = {key: _named(key, ADMIN, UNLIMITED) for key in admin_keys}
    for key in api_keys:
        limits = replace(default, requests_per_minute=own_limits[key]) if key in own_limits else default
        caller = _named(key, CALLER, limits)
        known[key] = replace(caller, scopes=CALLER | ADMIN) if key in known else caller
    return known


def with_default(limits: KeyLimits, default: KeyLimits) -> KeyLimits:
    """The limits, with the default's requests a minute where they have none."""
    if limits.requests_per_minute is not None or default.requests_per_minute is None:
        return limits
    return replace(limits, requests_per_minute=default.requests_per_minute)


def _named(key: str, scopes: frozenset[str], limits: KeyLimits) -> Principal:
    name = f"key-{sha256(key.encode()).hexdigest()[:8]}"
    return Principal(name, name, scopes, limits=limits)


Credential = tuple[bytes, bytes]  # what was presented, and its SHA-256


def presented(authorization: bytes | None, api_key: bytes | None) -> Credential:
    """The key or token that the two headers bring. Raises `Unauthorized`."""
    if authorization is not None:
        if authorization[:7].lower() != b"bearer ":
            raise Unauthorized("The Authorization header must be 'Bearer ' and an API key.")
        key = authorization[7:]
    elif api_key is not None:
        key = api_key
    else:
        raise Unauthorized("No API key. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'.")
    if not 0 < len(key) <= MAX_TOKEN_BYTES or key.translate(None, _VISIBLE):
        raise Unauthorized("The API key is not well-formed.")
    return key, sha256(key).digest()
