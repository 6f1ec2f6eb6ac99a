"""A load in stages sends as many as its rates say, when they say it; thresholds are read and judged."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.loadgen.figures import summarise
from forebay.loadgen.stages import Stage, Threshold, stage, staged, threshold
from tests.unit.loadgen.samples import run_of, sample

RATES = st.floats(0, 50).map(lambda rate: round(rate, 2))
STAGES = st.lists(st.builds(Stage, st.floats(0.5, 20), RATES), min_size=1, max_size=5)


@given(STAGES, st.sampled_from(["fixed", "poisson"]))
def test_as_many_arrive_as_the_rates_say_in_order_and_in_time(stages: list[Stage], process: str) -> None:
    times = staged(stages, process, Random(1)).times  # type: ignore[arg-type]
    whole = sum(
        (before + one.rate) / 2 * one.seconds
        for before, one in zip([0, *(s.rate for s in stages)], stages, strict=False)
    )
    assert abs(len(times) - whole) <= 1
    assert list(times) == sorted(times)
    assert all(0 <= time <= sum(one.seconds for one in stages) + 1e-6 for time in times)


def test_a_rate_that_rises_and_holds_and_falls() -> None:
    times = staged([Stage(10, 10), Stage(10, 10), Stage(10, 0)], "fixed", Random(1)).times
    assert len(times) == 200
    assert [sum(begin < time <= begin + 5 for time in times) for begin in range(0, 30, 5)] == [
        pytest.approx(wanted, abs=1) for wanted in (12.5, 37.5, 50, 50, 37.5, 12.5)
    ]


def test_the_same_seed_gives_the_same_times() -> None:
    first, second = (staged([Stage(5, 20)], "poisson", Random(7)).times for _ in range(2))
    assert first == second != staged([Stage(5, 20)], "poisson", Random(8)).times


@pytest.mark.parametrize(
    ("text", "told"), [("30s:10", Stage(30, 10)), ("2m:0.5", Stage(120, 0.5)), ("7:0", Stage(7, 0))]
)
def test_stages_are_read(text: str, told: Stage) -> None:
    assert stage(text) == told


@pytest.mark.parametrize("text", ["", "30s", "0s:10", "10:30s", "-5:1", "1h:1"])
def test_what_is_no_stage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not such as 30s:10"):
        stage(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("failed:1%", Threshold("failed", 0.01)),
        ("ttft_p95:500", Threshold("ttft_p95", 0.5)),
        ("e2e_max:20ms", Threshold("e2e_max", 0.02)),
    ],
)
def test_thresholds_are_read(text: str, told: Threshold) -> None:
    assert threshold(text) == told


@pytest.mark.parametrize("text", ["", "failed", "ttft:500", "ttft_p96:500", "failed:many", "ttft_p95:-1"])
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not such as failed:1%"):
        threshold(text)


def test_thresholds_are_judged_by_what_was_measured() -> None:
    good = [sample(number, number + 0.1, number + 0.2) for number in range(19)]
    summary = summarise(run_of(*good, sample(19, failure="status 500")))
    assert threshold("failed:5%").met(summary)
    assert not threshold("failed:4.9%").met(summary)
    assert threshold("ttft_p95:101").met(summary)
    assert not threshold("ttft_p95:99").met(summary)
    assert threshold("ttft_p95:99").words(summary) == "ttft_p95: 100 ms, at most 99 ms: not met"
    assert threshold("failed:5%").words(summary) == "failed: 5.00%, at most 5.00%: met"


def test_nothing_measured_is_nothing_met() -> None:
    summary = summarise(run_of(sample(0, failure="status 500")))
    assert not threshold("ttft_p95:1000").met(summary)
    assert threshold("ttft_p95:1000").words(summary) == "ttft_p95: nothing was measured, at most 1000 ms: not met"
