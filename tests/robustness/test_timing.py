"""D4: how long a wrong key takes to refuse tells nothing of the right ones.

Welch's t between two classes of wrong keys, asked in a random order; the slowest tenth of all samples is left out, as
the machine's doing. Above 4.5 the classes can be told apart. A machine that is busy with something else may tell them
apart by chance, hence three tries; a comparison that ends early does so in each.
"""

from collections.abc import Callable
from gc import collect, disable, enable
from hmac import compare_digest
from math import sqrt
from pathlib import Path
from random import Random
from statistics import fmean, variance
from time import perf_counter_ns

import pytest

from forebay.policy.attempts import Attempts
from forebay.policy.auth import UNLIMITED, Authenticator, Principal
from forebay.refusals import Unauthorized
from forebay.store.directory import KeyDirectory
from forebay.store.keys import Keys
from tests.store.databases import made, new_key

SAMPLES = 50_000
TOLD_APART = 4.5
KEY = "sk-" + "0123456789abcdef" * 8


def welch(first: list[int], second: list[int]) -> float:
    most = sorted(first + second)[int(0.9 * (len(first) + len(second)))]
    kept = [[one for one in samples if one < most] for samples in (first, second)]
    spread = sqrt(sum(variance(samples) / len(samples) for samples in kept))
    return abs(fmean(kept[0]) - fmean(kept[1])) / spread


def told_apart(ask: Callable[[bytes], object], classes: tuple[list[bytes], list[bytes]]) -> float:
    """Welch's t of what the two classes cost."""
    order = [(which, header) for which in (0, 1) for header in classes[which]]
    Random(1).shuffle(order)
    samples: tuple[list[int], list[int]] = ([], [])
    collect()
    disable()
    try:
        for which, header in order:
            begun = perf_counter_ns()
            ask(header)
            samples[which].append(perf_counter_ns() - begun)
    finally:
        enable()
    return welch(*samples)


def asking(auth: Authenticator) -> Callable[[bytes], object]:
    def ask(header: bytes) -> object:
        try:
            return auth.authenticate(header, None, 0.0)
        except Unauthorized as refusal:
            return refusal

    return ask


def headers(like: str, count: int, seed: int) -> list[bytes]:
    """So many wrong keys, each another: all but the last twelve letters are those of `like`."""
    random = Random(seed)
    return [f"Bearer {like[:-12]}{random.getrandbits(48):012x}".encode() for _ in range(count)]


def test_a_valid_keys_beginning_is_not_told_apart_from_any_other_text() -> None:
    fixed = {KEY: Principal("t", "k"), **{f"sk-{number}": Principal("t", "k") for number in range(50)}}
    auth = Authenticator(fixed, attempts=Attempts(10**9))
    assert auth.authenticate(b"Bearer " + KEY.encode(), None, 0.0) is fixed[KEY]
    other = "zz-" + "fedcba9876543210" * 8
    classes = headers(KEY, SAMPLES, 1), headers(other, SAMPLES, 2)
    assert any(told_apart(asking(auth), classes) < TOLD_APART for _ in range(3))


def test_a_known_keys_id_is_not_told_apart_from_an_unknown_one_in_the_database(tmp_path: Path) -> None:
    database = made(f"sqlite:///{tmp_path}/keys.db")
    key = [new_key(Keys(database))[0] for _ in range(50)][-1]
    auth = Authenticator({}, keys=KeyDirectory(database, 16, UNLIMITED), attempts=Attempts(10**9))
    known, unknown = (f"fb-{key_id}-{'x' * 43}" for key_id in (key.id, "0123456789abcdef"))
    ts = []
    for attempt in range(3):  # each key but once: what was found to be nobody's is remembered
        classes = headers(known, SAMPLES // 10, 2 * attempt), headers(unknown, SAMPLES // 10, 2 * attempt + 1)
        ts.append(told_apart(asking(auth), classes))
    assert min(ts) < TOLD_APART
    database.close()


@pytest.mark.parametrize("leaks", [True, False])
def test_a_comparison_that_ends_early_would_be_told_apart(leaks: bool) -> None:
    """The measure itself: it sees what letter-by-letter comparison leaks, and nothing where none does."""
    right = b"Bearer " + KEY.encode()

    def letter_by_letter(header: bytes) -> bool:
        return all(one == other for one, other in zip(header, right, strict=True))

    ask = letter_by_letter if leaks else lambda header: compare_digest(header, right)
    classes = headers(KEY, SAMPLES // 10, 1), headers("z" * len(KEY), SAMPLES // 10, 2)
    assert all(told_apart(ask, classes) > TOLD_APART for _ in range(3)) is leaks
