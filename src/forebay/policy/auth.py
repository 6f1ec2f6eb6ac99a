"""Who is this? A key presented as `Authorization: Bearer …` or `x-api-key` becomes a principal, or is refused.

Keys are compared by their SHA-256: looking a digest up tells nothing about the key through time, and no key is kept
in memory in the clear. The last comparison is constant-time all the same.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from forebay.refusals import Unauthorized

MAX_KEY_BYTES = 512
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


ANONYMOUS = Principal(tenant="anonymous", key_id="anonymous")


class Authenticator:
    """Knows the configured keys; with none, everybody is the anonymous principal."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._principals: dict[bytes, tuple[bytes, Principal]] = {}
        for key in keys:
            digest = sha256(key.encode()).digest()
            key_id = f"key-{digest.hex()[:8]}"
            self._principals[digest] = (digest, Principal(tenant=key_id, key_id=key_id))

    def __repr__(self) -> str:
        return f"<Authenticator {len(self._principals)} keys>"

    def authenticate(self, authorization: bytes | None, api_key: bytes | None) -> Principal:
        """Return the principal that the two headers name. Raises `Unauthorized`."""
        if not self._principals:
            return ANONYMOUS
        key = _presented(authorization, api_key)
        digest = sha256(key).digest()
        known = self._principals.get(digest)
        if known is None or not hmac.compare_digest(known[0], digest):
            raise Unauthorized("The API key is not valid. Use a key that this service's operator gave you.")
        return known[1]


def _presented(authorization: bytes | None, api_key: bytes | None) -> bytes:
    if authorization is not None:
        if authorization[:7].lower() != b"bearer ":
            raise Unauthorized("The Authorization header must be 'Bearer ' and an API key.")
        key = authorization[7:]
    elif api_key is not None:
        key = api_key
    else:
        raise Unauthorized("No API key. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'.")
    if not 0 < len(key) <= MAX_KEY_BYTES or key.translate(None, _VISIBLE):
        raise Unauthorized("The API key is not well-formed.")
    return key
