"""Whatever is called, answered, refused and cancelled in whatever order: no call is lost or sent twice, calls of one
kind go in the order they came, no request is larger than allowed, and none waits longer than it must."""

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.client.batching import Batch, Batcher, Lane
from forebay.client.pace import Pace

SIZE, WAIT_S, CONCURRENCY = 12, 1.0, 3
LANES = [Lane(model, parameters, "text") for model in ("m", "other") for parameters in (b"{}", b'{"n":2}')]


class Life(RuleBasedStateMachine):
    """Its own account is kept of where each call is."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.batcher: Batcher[int] = Batcher(SIZE, WAIT_S, CONCURRENCY)
        self.called = 0
        self.lane_of: dict[int, Lane] = {}
        self.waiting: dict[int, float] = {}  # since when
        self.first_sent: dict[Lane, list[int]] = {lane: [] for lane in LANES}  # calls as they went out first
        self.in_flight: list[Batch[int]] = []
        self.answered: set[int] = set()
        self.gone: set[int] = set()
        self.paused_until = dict.fromkeys(("m", "other"), -inf)

    @rule(lane=st.sampled_from(LANES), count=st.integers(1, 30))
    def call(self, lane: Lane, count: int) -> None:
        for _ in range(count):
            self.called += 1
            self.lane_of[self.called] = lane
            self.waiting[self.called] = self.now
            self.batcher.add(lane, self.called, self.now)

    @rule(step_s=st.sampled_from([0.0, 0.1, 0.5, 3.0]))
    def pump(self, step_s: float) -> None:
        self.now += step_s
        self.send()

    @rule()
    def wake(self) -> None:
        """At the time it names itself there is something to send."""
        self.send()
        if (at := self.batcher.next_at(self.now)) is not None:
            assert at > self.now
            self.now = at
            assert self.send()

    def send(self) -> int:
        paces = {model: self.batcher.pace(model) for model in self.paused_until}
        sizes = {model: pace.size for model, pace in paces.items()}
        batches = self.batcher.due(self.now)
        for batch in batches:
            assert 1 <= len(batch.calls) <= max(sizes[batch.lane.model], SIZE // 2), "too large"  # a half may be
            assert self.now >= self.paused_until[batch.lane.model], "sent within a pause"
            for call in batch.calls:
                assert self.lane_of[call] == batch.lane
                del self.waiting[call]  # KeyError: sent twice, or after it was cancelled
                if call not in self.first_sent[batch.lane]:
                    self.first_sent[batch.lane].append(call)
        self.in_flight += batches
        assert len(self.in_flight) <= CONCURRENCY
        if len(self.in_flight) < CONCURRENCY:
            for call, since in self.waiting.items():
                model = self.lane_of[call].model
                running = sum(batch.lane.model == model for batch in self.in_flight)
                if self.now >= self.paused_until[model] and running < paces[model].places:
                    assert running, "nothing is under way, and yet it waits"
                    assert self.now < since + WAIT_S, "it waits longer than it must"
        return len(batches)

    def take(self, data: st.DataObject) -> Batch[int]:
        batch = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(batch)
        return batch

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), tokens=st.none() | st.integers(1, 100))
    def answer(self, data: st.DataObject, tokens: int | None) -> None:
        batch = self.take(data)
        self.batcher.answered(batch, tokens, self.now)
        assert not self.answered & set(batch.calls)
        self.answered |= set(batch.calls)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 0.2, 5.0]), too_much=st.booleans())
    def refuse(self, data: st.DataObject, wait_s: float, too_much: bool) -> None:
        batch = self.take(data)
        again = [call for call in batch.calls if data.draw(st.integers(0, 3))]
        model = batch.lane.model
        self.paused_until[model] = max(self.paused_until[model], self.now + wait_s)
        self.batcher.again(batch, again, self.now + wait_s, self.now, too_much=too_much)
        self.waiting |= dict.fromkeys(again, -inf)
        self.gone |= set(batch.calls) - set(again)

    @precondition(lambda self: any(len(batch.calls) > 1 for batch in self.in_flight))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        batch = self.take(data)
        self.batcher.split(batch, batch.calls)
        self.waiting |= dict.fromkeys(batch.calls, -inf)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        batch = self.take(data)
        self.batcher.dropped(batch)
        self.gone |= set(batch.calls)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[call]
        self.gone.add(call)
        self.batcher.remove(self.lane_of[call], call)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.batcher.waiting == len(self.waiting)
        flying = {call for batch in self.in_flight for call in batch.calls}
        assert self.answered | self.gone | flying | set(self.waiting) == set(range(1, self.called + 1))

    @invariant()
    def calls_of_a_kind_go_in_the_order_they_came(self) -> None:
        for sent in self.first_sent.values():
            assert sent == sorted(sent)

    def teardown(self) -> None:
        """In the end, everything is answered."""
        self.batcher.hurry = True
        for _ in range(10 * self.called + 10):
            self.send()
            for batch in self.in_flight:
                self.batcher.answered(batch, None, self.now)
                self.answered |= set(batch.calls)
            self.in_flight = []
            if not self.waiting:
                break
            self.now = max(self.now, *(self.paused_until[self.lane_of[call].model] for call in self.waiting))
        assert self.answered | self.gone == set(range(1, self.called + 1))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40)


@given(
    max_size=st.integers(1, 300),
    places=st.integers(1, 20),
    told=st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.booleans()), max_size=200),
)
def test_whatever_is_answered_and_refused_the_pace_stays_within_its_bounds(
    max_size: int, places: int, told: list[tuple[bool, float, bool]]
) -> None:
    pace = Pace(max_size, places)
    for at, (refused, cost_s, full) in enumerate(told):
        if refused:
            pace.refused(at - 0.5, at)
        else:
            pace.answered(pace.size if full else 1, cost_s, at - 0.5, at)
        assert 1 <= pace.size <= max_size
        assert 1 <= pace.places <= places
