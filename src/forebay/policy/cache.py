"""Known already? Answers by what exactly was asked, least recently used ones going first. Pure.

The key is a SHA-256 over the tenant, the model, the endpoint, the kind of answer and the canonical body, each with its
length before it: nobody is ever given another tenant's answer, however names are chosen. An entry takes the bytes of
its answer and `OVERHEAD_BYTES`, and none may take more than a sixteenth of the room.
"""

from hashlib import sha256

import msgspec

from forebay.wire.usage import Usage

OVERHEAD_BYTES = 512
LARGEST_SHARE = 16


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A complete answer: a stream's events, or a whole body. `answer_id` is the id that it bears."""

    body: bytes
    stream: bool
    answer_id: str = ""
    usage: Usage | None = None

    @property
    def size(self) -> int:
        return len(self.body) + OVERHEAD_BYTES


def cache_key(tenant: str, model: str, path: bytes, body: bytes, *, stream: bool) -> bytes:
    """What exactly was asked, and by whom."""
    parts = (tenant.encode(errors="surrogatepass"), model.encode(errors="surrogatepass"), path, b"%d" % stream, body)
    return sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()


class Entries:
    """Entries for `ttl_s` seconds each, `max_bytes` together. `evictions` counts those that had to make room."""

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self.max_bytes = max_bytes
        self.ttl_s = ttl_s
        self.bytes = 0
        self.evictions = 0
        self._kept: dict[bytes, tuple[float, Entry]] = {}  # the least recently used first

    def __repr__(self) -> str:
        return f"<Entries {len(self)} of {self.bytes}/{self.max_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def largest_bytes(self) -> int:
        """The longest answer that is kept."""
        return self.max_bytes // LARGEST_SHARE - OVERHEAD_BYTES

    def get(self, key: bytes, now: float) -> Entry | None:
        """The entry of a key, if there is one and its time is not over."""
        found = self._kept.pop(key, None)
        if found is None:
            return None
        until, entry = found
        if now >= until:
            self.bytes -= entry.size
            return None
        self._kept[key] = found
        return entry

    def put(self, key: bytes, entry: Entry, now: float, ttl_s: float | None = None) -> None:
        """Keep an entry, in the place of what had its key; for less than the usual time if `ttl_s` says so."""
        if len(entry.body) > self.largest_bytes:
            return
        self._drop(key)
        self._kept[key] = (now + min(self.ttl_s, self.ttl_s if ttl_s is None else ttl_s), entry)
        self.bytes += entry.size
        self._make_room()

    def resize(self, max_bytes: int, ttl_s: float) -> None:
        """Take other bounds; entries keep the time they were given."""
        self.max_bytes, self.ttl_s = max_bytes, ttl_s
        self._make_room()

    def _make_room(self) -> None:
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._kept)))
            self.evictions += 1

    def _drop(self, key: bytes) -> None:
        if (found := self._kept.pop(key, None)) is not None:
            self.bytes -= found[1].size
