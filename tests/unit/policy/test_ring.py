"""Consistent hashing: who moves when members come and go."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.policy.ring import Ring

KEYS = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(10_000)]


def owners(names: list[str], keys: list[int] = KEYS) -> list[str]:
    ring = Ring(names)
    return [names[next(ring.walk(key, 1))] for key in keys]


names_of_members = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=30, unique=True)


@given(names_of_members)
@settings(max_examples=50)
def test_a_member_that_leaves_gives_up_its_own_keys_and_no_other_moves(names: list[str]) -> None:
    with_all, without = owners(names, KEYS[:500]), owners(names[1:], KEYS[:500])
    for was, now in zip(with_all, without, strict=True):
        assert now == was or was == names[0]


@pytest.mark.parametrize("size", [2, 3, 10, 50])
def test_about_one_key_in_n_moves(size: int) -> None:
    names = [f"http://10.0.0.{number}:8000" for number in range(size)]
    moved = sum(a != b for a, b in zip(owners(names), owners(names[:-1]), strict=True))
    assert moved / len(KEYS) == pytest.approx(1 / size, rel=0.4)


def test_members_share_the_keys_about_evenly() -> None:
    names = [f"replica-{number}" for number in range(10)]
    counts = Counter(owners(names))
    assert len(counts) == 10
    assert max(counts.values()) < 1.5 * len(KEYS) / 10
    assert min(counts.values()) > 0.6 * len(KEYS) / 10


def test_the_order_of_names_does_not_matter() -> None:
    names = [f"replica-{number}" for number in range(10)]
    assert owners(names) == owners(names[::-1])


@given(st.integers(0, 2**64 - 1), st.integers(1, 5))
def test_a_walk_passes_every_member_and_ends(key: int, size: int) -> None:
    walked = list(Ring([str(number) for number in range(size)]).walk(key, 1000))
    assert len(walked) == 64 * size
    assert set(walked) == set(range(size))


def test_more_members_than_a_point_can_name_are_refused() -> None:
    with pytest.raises(ValueError, match="65536"):
        Ring([""] * 65_537)
