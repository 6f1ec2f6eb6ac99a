"""What `make fuzz` feeds takes its seeds, right and damaged; the fuzzer itself is not needed for that."""

from random import Random

import pytest
from bench.fuzz import NAMES, bounded
from bench.fuzz_targets import TARGETS


def test_every_target_is_known_by_its_name() -> None:
    assert tuple(TARGETS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_target_takes_its_seeds_and_what_is_near_them(name: str) -> None:
    target, seeds_of = TARGETS[name]
    random, seeds, run = Random(1), seeds_of(), bounded(target)
    for number in range(300):
        seed = seeds[number % len(seeds)]
        at = random.randrange(len(seed) + 1)
        for data in (seed, seed[:at] + random.randbytes(random.randrange(3)) + seed[at + random.randrange(3) :]):
            run(data)
    run(b"")


def test_what_takes_too_long_or_raises_what_is_no_refusal_is_found() -> None:
    def endless(data: bytes) -> None:
        sum(range(10_000_000))

    with pytest.raises(AssertionError):
        bounded(endless)(b"")
    with pytest.raises(KeyError):
        bounded(lambda data: {}[data])(b"")
