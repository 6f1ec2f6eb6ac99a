"""A queue that stands is kept short, a burst's is not, and engines never want for work because of it."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.policy.line import Place
from forebay.policy.standing import Standing
from forebay.refusals import Overloaded
from tests.unit.policy.line import MODEL, Promise, admission, is_in, principal

PLACES, SERVICE_S, PATIENCE_S, TARGET_S = 4, 1.0, 5.0, 1.0
CAPACITY = PLACES / SERVICE_S
STEP_S = 1 / 64


class Service:
    """Engines that take a second for each request, and the queue before them; time goes in steps."""

    def __init__(self, target_s: float = TARGET_S) -> None:
        self.now = 0.0
        self.admission = admission(PLACES, patience_s=PATIENCE_S, target_s=target_s)
        self.running: deque[tuple[float, Place]] = deque()
        self.waiting: list[tuple[float, Place]] = []
        self.waits: list[tuple[float, float]] = []  # when it came, and how long it waited
        self.refused = self.served = 0
        self._due = 0.0

    def come(self, tenant: str = "a") -> None:
        try:
            place = self.admission.acquire(principal(tenant), MODEL, 1, self.now)
        except Overloaded:
            self.refused += 1
        else:
            self.waiting.append((self.now, place))

    def run(self, rate: float, seconds: float) -> None:
        """So many a second for so long, evenly."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            self._due += rate * STEP_S
            while self._due >= 1:
                self._due -= 1
                self.come()
            self._look()
            while self.running and self.running[0][0] <= self.now:
                self.running.popleft()[1].release("answered", self.now)
                self.served += 1
                self._look()
            self.admission.sweep(self.now)

    def _look(self) -> None:
        for came, place in [one for one in self.waiting if is_in(one[1])]:
            self.waiting.remove((came, place))
            self.waits.append((came, self.now - came))
            self.running.append((self.now + SERVICE_S, place))
        for came, place in list(self.waiting):
            if isinstance(place.granted, Promise) and place.granted.refusal() is not None:
                self.waiting.remove((came, place))
                place.release("refused", self.now)
                self.refused += 1


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(1.2, 6.0))
def test_under_a_load_that_stays_waits_are_short_and_engines_busy(factor: float) -> None:
    service = Service()
    service.run(factor * CAPACITY, 30.0)
    settled = [wait for came, wait in service.waits if came > 4 * PATIENCE_S]
    assert max(settled) <= TARGET_S + 2 / CAPACITY
    assert service.served >= 0.95 * CAPACITY * (30.0 - SERVICE_S)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(1.5, 6.0), share=st.floats(0.1, 0.9), later_s=st.floats(10.0, 60.0))
def test_a_burst_that_the_queue_holds_is_served_whole_however_often_it_comes(
    factor: float, share: float, later_s: float
) -> None:
    service = Service()
    burst_s = share * PATIENCE_S / factor  # the last of it waits for less than it may
    for _ in range(3):
        service.run(factor * CAPACITY, burst_s)
        service.run(0.0, later_s)
    assert (service.refused, service.waiting) == (0, [])


def test_without_a_target_the_same_load_has_everybody_wait_for_as_long_as_it_may() -> None:
    service = Service(target_s=float("inf"))
    service.run(2 * CAPACITY, 30.0)
    assert min(wait for came, wait in service.waits if came > 4 * PATIENCE_S) > 0.8 * PATIENCE_S


def test_who_sends_little_is_not_refused_for_what_others_send() -> None:
    service = Service()
    for _ in range(40):
        service.run(2 * CAPACITY, 2.5)
        before = service.refused
        service.come("mouse")
        assert service.refused == before


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["began", "refused", "nothing"]), st.floats(0.01, 9.0)), max_size=40))
def test_a_queue_that_was_empty_lately_is_kept_short_only_where_it_was_before(steps: list[tuple[str, float]]) -> None:
    queue, now, began, kept_short = Standing(TARGET_S, PATIENCE_S), 0.0, 0.0, float("-inf")
    queue.began(now)
    for what, later_s in steps:
        now += later_s
        if what == "began":
            queue.began(now)
            began = now
        elif what == "refused":
            queue.refused(now)
            kept_short = now
        short = now - began > PATIENCE_S or now - kept_short < PATIENCE_S
        assert queue.most_wait_s(now) == (TARGET_S if short else float("inf"))


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0])
def test_a_load_that_can_be_served_is_never_refused(factor: float) -> None:
    service = Service()
    service.run(factor * CAPACITY, 60.0)
    assert service.refused == 0
