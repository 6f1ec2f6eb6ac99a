"""The breaker's story, with the clock in hand."""

from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.breaker import Breaker, BreakerLimits, BreakerState

LIMITS = BreakerLimits(consecutive=3, ratio=0.5, min_requests=10, window_s=10, pause_s=2, max_pause_s=8)


def test_failures_in_a_row_open_it_a_trial_closes_it() -> None:
    breaker = Breaker(LIMITS)
    breaker.failed(0.0)
    breaker.succeeded(0.0)
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.failed(0.0)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.may_ask(1.9)
    assert breaker.may_ask(2.0)
    breaker.asked(2.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.may_ask(2.0), "one trial at a time"
    breaker.succeeded(2.5)
    assert (breaker.state, breaker.may_ask(2.5)) == (BreakerState.CLOSED, True)


def test_a_failed_trial_doubles_the_pause_up_to_a_limit() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(3):
        breaker.failed(0.0)
    now, pauses = 0.0, []
    for _ in range(4):
        start = now
        while not breaker.may_ask(now):
            now += 0.5
        pauses.append(now - start)
        breaker.asked(now)
        breaker.failed(now)
    assert pauses == [2, 4, 8, 8]


def test_a_cancelled_trial_lets_another_try() -> None:
    breaker = Breaker(LIMITS)
    for _ in range(3):
        breaker.failed(0.0)
    breaker.asked(2.0)
    assert not breaker.may_ask(2.1)
    breaker.left(2.1)
    assert breaker.may_ask(2.1)


def test_a_share_of_failures_opens_it_and_old_ones_are_forgotten() -> None:
    breaker = Breaker(LIMITS)
    for number in range(4):
        breaker.succeeded(float(number) / 10)
        breaker.failed(float(number) / 10)
    assert breaker.state is BreakerState.CLOSED
    breaker.succeeded(0.5)
    breaker.failed(0.5)
    assert breaker.state is BreakerState.OPEN
    old = Breaker(LIMITS)
    for _ in range(4):
        old.succeeded(0.0)
        old.failed(0.0)
    old.succeeded(30.0)
    old.failed(30.0)
    assert old.state is BreakerState.CLOSED


@given(st.lists(st.tuples(st.sampled_from(["succeeded", "failed", "left"]), st.floats(0, 5)), max_size=200))
def test_whatever_happens_it_never_stays_closed_off(story: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(LIMITS), 0.0
    for what, passes in story:
        now += passes
        breaker.asked(now)
        getattr(breaker, what)(now)
        assert breaker.may_ask(now + LIMITS.max_pause_s)
        if what == "succeeded":
            assert breaker.may_ask(now)
