"""Where on a circle is a key, and who comes next? Consistent hashing (Karger et al., 1997).

Each member has `POINTS` points on a circle of numbers; a key belongs to the member whose point follows it. A member
that joins takes its share evenly from all others, one that leaves gives its share evenly to them, and no other key
moves: with n members about one key in n. With 64 points a member's share is within a quarter or so of the mean.

Only names matter, neither their order nor who else computes it: several gateways agree without talking.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import Struct

POINTS = 64
_DIGEST = Struct("<8Q")
_INDEX_BITS = 16  # of a point's 60 bits (two of Python's digits) the lower ones say whose it is
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class Ring:
    """A circle of up to 65,536 members, immutable."""

    __slots__ = ("_points",)

    def __init__(self, names: Sequence[str]) -> None:
        if len(names) > _INDEX_MASK + 1:
            raise ValueError(f"a ring has at most {_INDEX_MASK + 1} members")
        points: list[int] = []
        for index, name in enumerate(names):
            points += [number >> 20 << _INDEX_BITS | index for number in _numbers_of(name)]
        points.sort()
        self._points = points

    def __repr__(self) -> str:
        return f"<Ring of {len(self._points) // POINTS}>"

    def walk(self, number: int, steps: int) -> Iterator[int]:
        """The members that follow a number of 64 bits, as indices into the names; one may come several times."""
        points = self._points
        at = bisect_left(points, number >> 4)
        for _ in range(min(steps, len(points))):
            if at == len(points):
                at = 0
            yield points[at] & _INDEX_MASK
            at += 1


def _numbers_of(name: str) -> Iterator[int]:
    encoded = name.encode()
    for part in range(POINTS // 8):
        yield from _DIGEST.unpack(blake2b(encoded, salt=b"%d" % part).digest())
