"""Whatever comes and goes in whatever order: limits hold, nobody starves, and tokens are shared as the paper says.

Virtual Token Counter (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024): for two tenants that are
backlogged all the time between t1 and t2, the weighted tokens W that they were served differ by no more than

    |W_f(t1, t2) - W_g(t1, t2)| <= 2 max(w_in * L_input, w_out * M)

with L_input the longest prompt and M the most tokens that run at once: here the limit times the longest request.
"""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.policy.line import KEPT_S, Place
from forebay.refusals import Overloaded
from tests.unit.policy.line import MODEL, Engines, admission, is_in, principal, refused

LIMIT, QUEUED, PREFILL_S = 3, 6, 1.0
W_IN, W_OUT = 1.0, 2.0


class Life(RuleBasedStateMachine):
    """Requests come, are served, leave and expire, engines come and go; its own account is kept of who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.most_ever = 0.0
        self.engines = Engines(LIMIT)
        self.admission = admission(
            self.engines, most_queued=QUEUED, input_weight=W_IN, output_weight=W_OUT, prefill_s=PREFILL_S
        )
        self.places: list[tuple[Place, str, int]] = []  # in the order they came
        self.excused: set[Place] = set()  # let in while there was no engine to wait for, or more engines

    def waiting(self) -> list[tuple[Place, str, int]]:
        return [one for one in self.places if not is_in(one[0]) and not refused(one[0])]

    def running(self) -> list[Place]:
        return [place for place, _, _ in self.places if is_in(place)]

    @rule(
        tenant=st.sampled_from("abc"),
        priority=st.integers(-1, 1),
        tokens=st.integers(0, 100) | st.integers(1000, 5000),
        stream=st.booleans(),
        patience_s=st.sampled_from([0.5, 3.0, 1e6]),
    )
    def come(self, tenant: str, priority: int, tokens: int, stream: bool, patience_s: float) -> None:
        line = self.admission.lines.get(MODEL)
        kept = line is not None and tenant in {one.name for one in line.kept}
        full, highest = len(self.waiting()) >= QUEUED, max((one[2] for one in self.waiting()), default=-9)
        try:
            place = self.admission.acquire(
                principal(tenant, priority), MODEL, tokens, self.now, patience_s, stream=stream
            )
        except Overloaded:
            assert full or patience_s < 1e6
            return
        if self.engines.capacity == 0 and is_in(place):
            self.excused.add(place)
        elif is_in(place) and not kept:
            assert priority >= highest, "it went past those who wait"
            assert not any(whose == tenant and higher == priority for _, whose, higher in self.waiting())
        self.places.append((place, tenant, priority))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), took_s=st.sampled_from([0.0, 0.05, 1.0, 20.0]))
    def read(self, data: st.DataObject, took_s: float) -> None:
        place = data.draw(st.sampled_from(self.running()))
        before = self.waiting()
        place.read(self.now, took_s)
        self.check_order(before)

    @precondition(lambda self: self.places)
    @rule(data=st.data(), served=st.integers(0, 50))
    def end(self, data: st.DataObject, served: int) -> None:
        one = data.draw(st.sampled_from(self.places))
        before = self.waiting()
        one[0].served(served, served)
        one[0].release("answered", self.now)
        self.places.remove(one)
        self.excused.discard(one[0])
        self.check_order([other for other in before if other is not one])

    @rule(step_s=st.sampled_from([0.1, 1.0, 5.0]))
    def sweep(self, step_s: float) -> None:
        self.now += step_s
        before = self.waiting()
        self.admission.sweep(self.now)
        self.check_order(before)
        assert all(place.deadline > self.now for place, _, _ in self.waiting())

    @rule(capacity=st.integers(0, LIMIT))
    def engines_change(self, capacity: int) -> None:
        self.engines.capacity = capacity
        self.excused.update(self.running())
        self.admission.sweep(self.now)

    def check_order(self, before: list[tuple[Place, str, int]]) -> None:
        """Of those who waited: strict between classes, first come first served within a tenant."""
        let_in = [one for one in before if is_in(one[0])]
        for place, tenant, priority in let_in:
            for other, whose, higher in before:
                if other is place or is_in(other) or refused(other):
                    continue
                assert higher <= priority, "a lower class went first"
                if (whose, higher) == (tenant, priority):
                    assert before.index((other, whose, higher)) > before.index((place, tenant, priority))

    @invariant()
    def limits_hold(self) -> None:
        line = self.admission.lines.get(MODEL)
        if line is None:
            return
        assert line.running == len(self.running()) + len(line.kept)
        assert len([place for place in self.running() if place not in self.excused]) <= LIMIT
        assert line.queue.size == len(self.waiting()) <= QUEUED
        assert self.admission.under_way == len(self.places)
        if self.waiting() and self.engines.capacity and line.limit == self.engines.capacity:
            assert line.running >= line.limit or not line.prefill.has_room(line.queue.next().input_tokens), (
                "there is room and somebody waits"
            )

    @invariant()
    def what_is_unread_is_what_engines_were_sent(self) -> None:
        line = self.admission.lines.get(MODEL)
        if line is not None:
            unread = [place for place in self.running() if place.unread]
            assert line.prefill.unread + line.prefill._uncounted == sum(place.unread for place in unread)
            self.most_ever = max(self.most_ever, line.prefill.most, *(place.unread for place in unread))
            assert line.prefill.unread <= self.most_ever or self.excused.intersection(unread)

    def teardown(self) -> None:
        for place, _, _ in self.places:
            place.release("cancelled", self.now)
        assert (self.admission.under_way, self.admission.queued) == (0, 0)
        self.admission.sweep(self.now + KEPT_S)  # a place may be kept for the last that left before the others did
        assert all(line.running == 0 for line in self.admission.lines.values())
        assert all(one.held == 0 for line in self.admission.lines.values() for one in line.queue._tenants.values())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)

Sizes = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=8)


class Backlog:
    """Tenants that always have a queue, and engines that make one token a step for each that runs."""

    def __init__(self, limit: int, sizes: dict[str, list[tuple[int, int]]], weights: dict[str, float]) -> None:
        self.admission = admission(limit, input_weight=W_IN, output_weight=W_OUT, most_queued=10_000)
        self.sizes, self.weights = sizes, weights
        self.came = dict.fromkeys(sizes, 0)
        self.served = dict.fromkeys(sizes, 0.0)
        self.left: dict[Place, int] = {}
        self.waiting: list[tuple[str, Place, int]] = []
        for tenant in sizes:
            for _ in range(3 * limit + 2):
                self.come(tenant)

    def come(self, tenant: str) -> None:
        sizes = self.sizes[tenant]
        prompt, answer = sizes[self.came[tenant] % len(sizes)]
        self.came[tenant] += 1
        place = self.admission.acquire(principal(tenant, weight=self.weights[tenant]), MODEL, prompt, 0.0)
        self.waiting.append((tenant, place, answer))
        self.look()

    def look(self) -> None:
        for one in [one for one in self.waiting if is_in(one[1])]:
            tenant, place, answer = one
            self.waiting.remove(one)
            self.left[place] = answer
            self.served[tenant] += W_IN * place.input_tokens / self.weights[tenant]

    def step(self) -> None:
        for place in list(self.left):
            self.left[place] -= 1
            tenant = place.tenant.name
            self.served[tenant] += W_OUT / self.weights[tenant]
            place.served(place.input_tokens, int((place.cost - W_IN * place.input_tokens) / W_OUT) + 1)
        for place in [place for place, left in self.left.items() if not left]:
            del self.left[place]
            place.release("answered", 0.0)
            self.look()
            self.come(place.tenant.name)


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 5), one=Sizes, other=Sizes, weight=st.sampled_from([1.0, 2.0, 4.0]), steps=st.integers(1, 300)
)
def test_tenants_that_are_backlogged_are_served_alike_within_the_papers_bound(
    limit: int, one: list[tuple[int, int]], other: list[tuple[int, int]], weight: float, steps: int
) -> None:
    backlog = Backlog(limit, {"a": one, "b": other, "c": [(5, 5)]}, {"a": 1.0, "b": weight, "c": 1.0})
    longest = max(prompt for prompt, _ in [*one, *other])
    most = limit * max(prompt + answer for prompt, answer in [*one, *other])
    bound = 2 * max(W_IN * longest, W_OUT * most)
    start = dict(backlog.served)
    for _ in range(steps):
        backlog.step()
    served = {tenant: total - start[tenant] for tenant, total in backlog.served.items()}
    assert abs(served["a"] - served["b"]) <= bound


@settings(max_examples=40, deadline=None)
@given(limit=st.integers(1, 4), others=st.lists(Sizes, min_size=1, max_size=5), mine=Sizes)
def test_nobody_starves_a_request_waits_for_no_more_than_its_tenants_share_of_the_others(
    limit: int, others: list[Sizes], mine: Sizes
) -> None:
    """What the others are served while the first of a tenant's requests waits is bounded by the paper's bound each."""
    sizes = {f"other-{number}": size for number, size in enumerate(others)}
    backlog = Backlog(limit, sizes, dict.fromkeys(sizes, 1.0))
    for _ in range(50):
        backlog.step()
    backlog.sizes["me"], backlog.weights["me"], backlog.came["me"], backlog.served["me"] = mine, 1.0, 0, 0.0
    most = limit * max(prompt + answer for size in [*others, mine] for prompt, answer in size)
    before = sum(backlog.served.values())
    backlog.come("me")
    while not backlog.served["me"] and any(tenant == "me" for tenant, _, _ in backlog.waiting):
        backlog.step()
        waited = sum(backlog.served.values()) - before
        assert waited <= 2 * W_OUT * most * (len(others) + 1), "it waits for ever"


def test_shares_of_tokens_are_by_weight_whatever_the_sizes_of_the_requests() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 4.0}
    backlog = Backlog(4, {"a": [(5, 40)], "b": [(0, 3), (9, 1)], "c": [(20, 10)]}, weights)
    start = dict(backlog.served)
    for _ in range(5000):
        backlog.step()
    by_weight = [backlog.served[tenant] - start[tenant] for tenant in weights]
    assert max(by_weight) < 1.05 * min(by_weight)
