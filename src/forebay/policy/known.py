"""Principals met lately, by the digest of what they presented; and digests that were lately found to be nobody's.

Bounded, the longest unused going first. What is nobody's is believed for a short time only, and until anything changes:
a key may have been made since.
"""

from collections import OrderedDict
from collections.abc import Set

from forebay.policy.auth import Principal

NOBODY_S = 5.0
MOST_NOBODIES = 10_000


class Known:
    """At most `size` principals, and as many digests of nobody's as `MOST_NOBODIES`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._principals: OrderedDict[bytes, Principal] = OrderedDict()
        self._nobodies: OrderedDict[bytes, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Known {len(self._principals)}/{self._size}, nobodies={len(self._nobodies)}>"

    def __len__(self) -> int:
        return len(self._principals)

    def get(self, digest: bytes) -> Principal | None:
        """The principal, where it is known."""
        principal = self._principals.get(digest)
        if principal is not None:
            self._principals.move_to_end(digest)
        return principal

    def is_nobody(self, digest: bytes, wall: float) -> bool:
        """Whether it was found to be nobody's a moment ago."""
        return self._nobodies.get(digest, 0.0) > wall

    def learn(self, digest: bytes, principal: Principal | None, wall: float) -> None:
        """Whose a digest was found to be."""
        if principal is None:
            self._nobodies[digest] = wall + NOBODY_S
            if len(self._nobodies) > MOST_NOBODIES:
                self._nobodies.popitem(last=False)
            return
        self._nobodies.pop(digest, None)
        self._principals[digest] = principal
        if len(self._principals) > self._size:
            self._principals.popitem(last=False)

    def forget(self, key_ids: Set[str], tenants: Set[str]) -> None:
        """Some keys, or all of some tenants, have changed."""
        self._nobodies.clear()
        gone = [
            digest
            for digest, principal in self._principals.items()
            if principal.key_id in key_ids or principal.tenant in tenants
        ]
        for digest in gone:
            del self._principals[digest]

    def forget_all(self) -> None:
        self._principals.clear()
        self._nobodies.clear()
