"""Whose prompts may an engine's prefix cache answer with? Those of the same tenant alone.

An engine finds the attention state (KV cache) of a prompt that it has seen by a hash of its tokens, whoever sent it: a
tenant that tries prompts would tell by the time to the first token which of them others have sent. What is hashed
begins with the request's `cache_salt`, where it has one, so each tenant has a salt of its own. All gateways make the
same one, else an engine would compute a prompt once for each of them. It is keyed with the secret that they share,
where there is one; where there is none it may be guessed, which helps nobody: callers may not name a salt.
"""

from base64 import urlsafe_b64encode
from hashlib import blake2b

MOST_REMEMBERED = 10_000
_PERSON = b"forebay-salt"


class Salts:
    """Tenants' salts, as the member that ends an engine's JSON body."""

    def __init__(self, secret: str) -> None:
        self._key = blake2b(secret.encode(), digest_size=32, person=_PERSON).digest()
        self._members: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Salts {len(self._members)} tenants>"

    def member_of(self, tenant: str) -> bytes:
        """`,"cache_salt":"…"` with the tenant's salt: 43 characters, which no cache behind an engine trips over."""
        member = self._members.get(tenant)
        return self._make(tenant) if member is None else member

    def _make(self, tenant: str) -> bytes:
        digest = blake2b(tenant.encode(), digest_size=32, key=self._key, person=_PERSON).digest()
        member = b',"cache_salt":"%s"' % urlsafe_b64encode(digest).rstrip(b"=")
        if len(self._members) >= MOST_REMEMBERED:
            self._members.clear()
        self._members[tenant] = member
        return member
