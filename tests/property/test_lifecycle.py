"""Whatever happens to an engine in whatever order, its lifecycle stays sound."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.engines.backoff import Backoff
from forebay.engines.lifecycle import (
    ON,
    WHEN,
    Announce,
    Deadlines,
    Effect,
    Kill,
    Lifecycle,
    ProcessExited,
    Signal,
    Spawn,
    State,
)

RUNNING = {State.STARTING, State.WARMING, State.READY, State.DRAINING, State.STOPPING}


class EngineLife(RuleBasedStateMachine):
    """Sends every event that can happen, and wishes, and keeps its own account of the process."""

    def __init__(self) -> None:
        super().__init__()
        backoff = Backoff(max_s=8, limit=4, window_s=50, random=lambda: 0.5)
        self.lifecycle = Lifecycle(Deadlines(5, 5, 5, 5), backoff)
        self.now = 0.0
        self.process_runs = False

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                assert not self.process_runs, "two processes at once"
                assert self.lifecycle.wanted, "an engine nobody wants was started"
                self.process_runs = True
            if isinstance(effect, Signal):
                assert self.process_runs, "a signal to no process"
                assert effect.how in Kill
            if isinstance(effect, Announce) and effect.new is State.READY:
                assert self.lifecycle.wanted, "an engine nobody wants became ready"

    @rule(wanted=st.booleans())
    def wish(self, wanted: bool) -> None:
        self.perform(self.lifecycle.want(wanted, self.now))

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: bool(ON[self.lifecycle.state]))
    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(sorted(ON[self.lifecycle.state], key=lambda kind: kind.__name__)))
        if event is ProcessExited:
            self.process_runs = False
        self.perform(self.lifecycle.handle(event("it happened"), self.now))

    @invariant()
    def the_process_runs_just_in_the_states_that_have_one(self) -> None:
        assert self.process_runs == (self.lifecycle.state in RUNNING)

    @invariant()
    def no_wish_is_left_unheeded(self) -> None:
        assert (self.lifecycle.state, self.lifecycle.wanted) not in WHEN


TestEngineLife = EngineLife.TestCase
