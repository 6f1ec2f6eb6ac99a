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
        self.lines: dict[Lane, list[int]] = {lane: [] for lane in LANES}  # who waits, in the order they shall go
        self.halves: list[list[int]] = []
        self.since: dict[int, float] = {}
        self.in_flight: list[Batch[int]] = []
        self.answered: set[int] = set()
        self.gone: set[int] = set()
        self.paused_until = dict.fromkeys(("m", "other"), -inf)

    @property
    def waiting(self) -> list[int]:
        return [call for calls in (*self.lines.values(), *self.halves) for call in calls]

    def running(self, model: str) -> int:
        return sum(batch.lane.model == model for batch in self.in_flight)

    @rule(lane=st.sampled_from(LANES), count=st.integers(1, 20))
    def call(self, lane: Lane, count: int) -> None:
        for _ in range(count):
            self.called += 1
            self.since[self.called] = self.now
            self.lines[lane].append(self.called)
            self.batcher.add(lane, self.called, self.now)

    @rule(step_s=st.sampled_from([0.0, 0.3, 1.2, 5.0]))
    def pump(self, step_s: float) -> None:
        self.now += step_s
        self.send()

    @rule()
    def wake(self) -> None:
        """It names the time when there is something to send."""
        self.send()
        at = self.batcher.next_at(self.now)
        latest = [self.latest(lane) for lane, line in self.lines.items() if line and self.has_place(lane.model)]
        assert (at or inf) <= min(latest, default=inf)
        if at is not None:
            assert at > self.now
            self.now = at
            assert self.send()

    def has_place(self, model: str) -> bool:
        return len(self.in_flight) < CONCURRENCY and self.running(model) < self.batcher.pace(model).places

    def latest(self, lane: Lane) -> float:
        """When those who wait in a lane must go, if there is a place."""
        line, pause = self.lines[lane], self.paused_until[lane.model]
        full = len(line) >= self.batcher.pace(lane.model).size
        alone = self.running(lane.model) == 0
        return pause if full or alone else max(min(self.since[call] for call in line) + WAIT_S, pause)

    def send(self) -> int:
        sizes = {model: self.batcher.pace(model).size for model in self.paused_until}
        batches = self.batcher.due(self.now)
        for batch in batches:
            model = batch.lane.model
            assert self.has_place(model), "sent without a place"
            assert self.now >= self.paused_until[model], "sent within a pause"
            self.in_flight.append(batch)
            if batch.calls in self.halves:
                self.halves.remove(batch.calls)
            else:
                assert 1 <= len(batch.calls) <= sizes[model], "larger than allowed"
                line = self.lines[batch.lane]
                assert batch.calls == line[: len(batch.calls)], "not the first ones"
                del line[: len(batch.calls)]
        for lane, line in self.lines.items():
            if line and self.has_place(lane.model):
                assert self.now < self.latest(lane), "it waits longer than it must"
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
        self.lines[batch.lane][:0] = again
        self.since |= dict.fromkeys(again, -inf)
        self.gone |= set(batch.calls) - set(again)

    @precondition(lambda self: any(len(batch.calls) > 1 for batch in self.in_flight))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from([batch for batch in self.in_flight if len(batch.calls) > 1]))
        self.in_flight.remove(batch)
        calls = batch.calls[data.draw(st.integers(0, 1)) :]  # one may have left
        self.batcher.split(batch, calls)
        self.gone |= set(batch.calls) - set(calls)
        middle = len(calls) // 2
        self.halves += [half for half in (calls[:middle], calls[middle:]) if half]

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        batch = self.take(data)
        self.batcher.dropped(batch)
        self.gone |= set(batch.calls)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.waiting))
        self.gone.add(call)
        for lane, line in self.lines.items():
            if call in line:
                line.remove(call)
                self.batcher.remove(lane, call)
                return
        self.halves = [[one for one in half if one != call] for half in self.halves if half != [call]]
        for lane in LANES:
            self.batcher.remove(lane, call)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.batcher.waiting == len(self.waiting)
        flying = {call for batch in self.in_flight for call in batch.calls}
        assert self.answered | self.gone | flying | set(self.waiting) == set(range(1, self.called + 1))

    def teardown(self) -> None:
        """In the end, everything is answered."""
        self.batcher.hurry = True
        for _ in range(self.called + 10):
            self.now = max(self.now, *self.paused_until.values())
            self.send()
            for batch in self.in_flight:
                self.batcher.answered(batch, None, self.now)
                self.answered |= set(batch.calls)
            self.in_flight = []
        assert self.answered | self.gone == set(range(1, self.called + 1))
        assert repr(self.batcher).startswith("<Batcher waiting=0 in_flight=0 ")


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=30)


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
