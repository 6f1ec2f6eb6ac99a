"""The search finds the highest rate, and what it proposes follows from Little's law."""

from collections.abc import Callable

import pytest

from forebay.loadgen.figures import Slo, summarise
from forebay.loadgen.sweep import Trial, best, falls_behind, judge, next_rate, propose
from tests.unit.loadgen.samples import run_of, sample

SUMMARY = summarise(run_of(sample(0.0, 0.1, 0.2)))


def search(
    met: Callable[[float], bool], first: float = 1.0, precision: float = 0.1, highest: float = 1e4
) -> list[Trial]:
    trials: list[Trial] = []
    while (rate := next_rate(trials, first, precision, highest)) is not None:
        trials.append(Trial(rate, met(rate), "", SUMMARY))
        assert len(trials) < 60
    return trials


@pytest.mark.parametrize("limit", [0.05, 0.9, 1.0, 3.3, 17.0, 800.0])
def test_the_search_ends_within_a_tenth_below_the_limit(limit: float) -> None:
    trials = search(lambda rate: rate <= limit)
    found = best(trials)
    assert found is not None
    assert limit / 1.1 <= found.rate <= limit
    assert len(trials) < 20


def test_a_server_that_meets_no_rate_ends_the_search_without_one() -> None:
    assert best(search(lambda rate: False)) is None


def test_the_search_stops_at_the_highest_rate_that_is_allowed() -> None:
    assert [trial.rate for trial in search(lambda rate: True, first=3.0, highest=10.0)] == [3.0, 6.0, 10.0]


def test_a_rate_is_met_only_by_enough_requests_within_the_objectives() -> None:
    run = run_of(*(sample(n, n + 0.1, n + 0.2) for n in range(9)), sample(9, 9.9, 10.0))
    summary = summarise(run, Slo(ttft=0.5))
    assert judge(1.0, run, summary, 0.9).met
    assert not judge(1.0, run, summary, 0.95).met


def test_failed_requests_miss_the_objectives() -> None:
    run = run_of(*(sample(n, n + 0.1) for n in range(8)), sample(8, failure="status 503"), sample(9, failure="closed"))
    assert judge(1.0, run, summarise(run, Slo(ttft=0.5)), 0.8).met
    assert not judge(1.0, run, summarise(run, Slo(ttft=0.5)), 0.9).met


def test_a_server_that_falls_behind_does_not_meet_a_rate_though_its_tokens_come_fast() -> None:
    late = run_of(*(sample(n * 0.1, n * 0.2 + 1, n * 0.2 + 1.01) for n in range(400)))  # twice what it can take
    trial = judge(10.0, late, summarise(late, Slo(tpot=0.05)), 0.95)
    assert not trial.met
    assert "falls behind" in trial.verdict


def test_a_few_requests_more_at_the_end_of_a_short_trial_are_chance() -> None:
    sent = (0.0, 0.8, 2.0, 2.6, 3.0, 3.2, 3.5, 3.9)  # 2/s for 4 s, each answer takes 1 s
    assert not falls_behind(run_of(*(sample(at, at + 0.2, at + 1) for at in sent)))


def test_a_server_that_keeps_up_does_not_fall_behind_however_long_answers_are() -> None:
    assert not falls_behind(run_of(*(sample(n * 0.1, n * 0.1 + 5) for n in range(400))))


def test_what_the_client_could_not_send_is_not_laid_upon_the_server() -> None:
    run = run_of(sample(0.0, 0.1, 0.2))
    run.client_cpu_s = 0.19
    trial = judge(1.0, run, summarise(run, Slo(ttft=1.0)), 0.9)
    assert (trial.met, trial.client_bound) == (False, True)


def test_the_proposal_is_littles_law_and_the_time_that_is_left() -> None:
    run = run_of(*(sample(n, n + 0.5, n + 3.0) for n in range(100)))
    trial = Trial(10.0, True, "", summarise(run, Slo(ttft=2.0)))
    found = propose(trial, Slo(ttft=2.0))
    assert (found.max_concurrency, found.max_queue_size, found.queue_timeout_s) == (30, 15, 1.5)
    assert (found.target_in_flight, found.target_requests_per_s) == (pytest.approx(24.0), pytest.approx(8.0))


def test_what_is_proposed_for_one_of_several_engines_is_its_share_and_the_queue_is_for_all() -> None:
    run = run_of(*(sample(n, n + 0.5, n + 3.0) for n in range(100)))
    found = propose(Trial(10.0, True, "", summarise(run)), Slo(e2e=4.0), engines=2)
    assert (found.max_concurrency, found.max_queue_size) == (15, 10)
    assert found.requests_per_s == 5.0
