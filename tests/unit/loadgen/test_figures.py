"""The figures are vLLM's, by their definitions, computed here another way."""

from random import Random
from statistics import fmean, median, pstdev, quantiles

import pytest

from forebay.loadgen.figures import Slo, meets, percentile, spread, summarise
from tests.unit.loadgen.samples import run_of, sample


@pytest.mark.parametrize("count", [2, 3, 10, 99, 1000])
def test_percentiles_are_those_that_the_standard_library_interpolates(count: int) -> None:
    draw = Random(count)
    values = [draw.expovariate(1.0) for _ in range(count)]
    cuts = quantiles(values, n=100, method="inclusive")  # NumPy's linear interpolation, too
    found = spread(values)
    assert found is not None
    assert [found.p90, found.p95, found.p99] == pytest.approx([cuts[89], cuts[94], cuts[98]])
    assert [found.median, found.mean, found.std] == pytest.approx([median(values), fmean(values), pstdev(values)])
    assert (found.min, found.max, found.count) == (min(values), max(values), count)


def test_one_value_is_every_percentile_and_none_is_no_figure() -> None:
    assert percentile([3.0], 99) == 3.0
    assert spread([]) is None


def test_each_figure_is_what_its_definition_says() -> None:
    run = run_of(sample(0.0, 0.5, 0.6, 0.8), sample(1.0, 1.2, 1.6))
    found = summarise(run)
    assert found.ttft_s is not None
    assert found.itl_s is not None
    assert found.tpot_s is not None
    assert found.e2e_s is not None
    assert found.ttft_s.mean == pytest.approx((0.5 + 0.2) / 2)
    assert (found.itl_s.count, found.itl_s.mean) == (3, pytest.approx((0.1 + 0.2 + 0.4) / 3))
    assert found.tpot_s.mean == pytest.approx(((0.8 - 0.5) / 2 + 0.4) / 2)
    assert found.e2e_s.mean == pytest.approx((0.8 + 0.6) / 2)
    assert found.requests_per_s == pytest.approx(2 / 1.6)
    assert found.output_tokens_per_s == pytest.approx(5 / 1.6)
    assert found.total_tokens_per_s == pytest.approx(25 / 1.6)
    assert found.mean_in_flight == pytest.approx((0.8 + 0.6) / 1.6)
    assert found.goodput_per_s is None


def test_tokens_that_come_together_are_one_arrival_and_count_for_tpot() -> None:
    found = summarise(run_of(sample(0.0, 0.1, 0.5, output_tokens=5)))
    assert found.itl_s is not None
    assert found.tpot_s is not None
    assert (found.itl_s.count, found.itl_s.mean) == (1, pytest.approx(0.4))
    assert found.tpot_s.mean == pytest.approx(0.4 / 4)
    assert found.output_tokens == 5


def test_an_answer_of_one_token_has_no_tpot_and_misses_no_objective_on_it() -> None:
    one = sample(0.0, 0.3)
    assert one.tpot is None
    assert summarise(run_of(one)).tpot_s is None
    assert meets(one, Slo(tpot=0.001))


def test_failed_requests_are_counted_and_are_in_no_other_figure() -> None:
    good, bad = sample(0.0, 0.5, 0.6), sample(0.0, 9.0, failure="status 503")
    alone, both = (
        summarise(run_of(good, ended=1.0), Slo(ttft=1.0)),
        summarise(run_of(good, bad, ended=1.0), Slo(ttft=1.0)),
    )
    assert (both.completed, both.failed, both.failures) == (1, 1, {"status 503": 1})
    assert (both.ttft_s, both.itl_s, both.e2e_s) == (alone.ttft_s, alone.itl_s, alone.e2e_s)
    assert both.output_tokens == alone.output_tokens
    assert (alone.attainment, both.attainment) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("slo", "good"),
    [(Slo(ttft=0.5), 2), (Slo(ttft=0.4), 1), (Slo(tpot=0.1), 1), (Slo(e2e=0.75), 1), (Slo(0.5, 0.2, 1.0), 2)],
)
def test_goodput_counts_the_requests_that_keep_within_every_objective(slo: Slo, good: int) -> None:
    run = run_of(sample(0.0, 0.5, 0.6), sample(0.0, 0.25, 0.45, 0.65, 0.85), ended=2.0)
    assert summarise(run, slo).goodput_per_s == pytest.approx(good / 2)


def test_a_run_in_which_nothing_ended_has_figures_of_zero() -> None:
    found = summarise(run_of(sample(0.0, failure="closed"), ended=1.0), Slo(ttft=1.0))
    assert (found.completed, found.requests_per_s, found.ttft_s, found.attainment) == (0, 0.0, None, 0.0)
