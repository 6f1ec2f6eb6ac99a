"""Which group of replicas? Where several versions of a model run side by side, each gets its weight's share of keys.

Weighted rendezvous hashing (Thaler and Ravishankar, 1998; Schindelhauer and Schomaker, 2005): each group has, for each
key, a random number of its own, stretched by the group's weight; the largest wins. A key therefore stays with its
group, and when a weight is raised keys move only into that group, never out of it or between others. The same order
says who comes next where the first cannot serve, so that its share is divided as the other weights are.
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import inf, log
from typing import Protocol, TypeVar

_MASK = (1 << 64) - 1


class Weighted(Protocol):
    """What is known of a group: `seed` is any number that is the group's own."""

    @property
    def seed(self) -> int: ...
    @property
    def weight(self) -> int: ...


G = TypeVar("G", bound=Weighted)


def seed_of(name: str) -> int:
    """A number of 64 bits for a group's name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def in_order(groups: Sequence[G], number: int) -> list[G]:
    """All groups, the one that a key of this number belongs to first; those of weight 0 last."""
    return sorted(groups, key=lambda group: _distance(group, number))


def _distance(group: Weighted, number: int) -> float:
    if group.weight <= 0:
        return inf
    return -log((_mixed(number ^ group.seed) + 1) / (_MASK + 2)) / group.weight


def _mixed(number: int) -> int:
    """A number of 64 bits in which each bit depends on each of the given one's (SplitMix64's last step)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
