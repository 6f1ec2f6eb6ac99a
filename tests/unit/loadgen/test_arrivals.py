"""Requests go out when the load says."""

from itertools import pairwise
from random import Random
from statistics import fmean, pstdev

import pytest

from forebay.loadgen.arrivals import arrivals, fixed


def test_fixed_arrivals_are_evenly_spaced() -> None:
    assert fixed(4.0, 5) == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    times = arrivals("poisson", 20.0, 4000, Random(1)).times
    gaps = [after - before for before, after in pairwise(times)]
    assert times[-1] == pytest.approx(4000 / 20.0)
    assert list(times) == sorted(times)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1.0, abs=0.1)  # as exponential gaps have it; fixed ones 0
    assert sum(gap > fmean(gaps) for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)


def test_the_same_seed_gives_the_same_arrivals_and_another_one_others() -> None:
    assert arrivals("poisson", 1.0, 9, Random(1)) == arrivals("poisson", 1.0, 9, Random(1))
    assert arrivals("poisson", 1.0, 9, Random(1)) != arrivals("poisson", 1.0, 9, Random(2))
