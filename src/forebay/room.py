"""Room in memory for what is held whole: bodies that arrive, answers that are checked before they are sent, and what
clients leave unread.

One budget for all of them, because each bound of its own (`max_body_bytes`, `max_answer_bytes`) holds for one
connection, and there are thousands. Small ones are not counted: `max_connections` bounds them.
"""

import os
import resource
from pathlib import Path

SMALL_BYTES = 16 * 1024
SHARE = 8  # of memory, for a body may be there three times: as it came, as the engine gets it, and on its way there
LEAST_BYTES = 128 * 1024 * 1024

Held = bytes | bytearray


class Room:
    """Bytes held now, and the most that may be."""

    __slots__ = ("bytes", "most_bytes")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<Room {self.bytes}/{self.most_bytes} bytes>"

    def take(self, count: int) -> bool:
        """Count so many bytes more as held, if there is room."""
        if self.bytes + count > self.most_bytes:
            return False
        self.bytes += count
        return True

    def add(self, count: int) -> None:
        """The same for bytes that are there already; they leave no room to others."""
        self.bytes += count

    def give(self, count: int) -> None:
        """So many are held no more."""
        self.bytes -= count


def joined(so_far: Held, data: bytes) -> Held:
    """What came so far and what came now. However small the pieces, it takes about as much memory as they have bytes:
    a list of pieces of two bytes would take twenty times that."""
    if not so_far:
        return data
    if isinstance(so_far, bytes):
        so_far = bytearray(so_far)
    so_far += data
    return so_far


def default_room(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The budget where none is set: a share of what this process may use."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        bounds.append(address_space)
    most = cgroup / "memory.max"
    if most.is_file() and (limit := most.read_text().strip()).isdigit():
        bounds.append(int(limit))
    return max(min(bounds) // SHARE, LEAST_BYTES)
