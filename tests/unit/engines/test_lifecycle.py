"""The engine's two tables, row by row, and what crashes and wishes do to them."""

import pytest

from forebay.engines.backoff import Backoff
from forebay.engines.lifecycle import (
    ON,
    WHEN,
    Announce,
    BackoffElapsed,
    DeadlinePassed,
    Deadlines,
    Drained,
    Event,
    GenerationSucceeded,
    HealthPassed,
    IllegalEvent,
    Kill,
    Lifecycle,
    ProcessExited,
    Reset,
    SetDeadline,
    Signal,
    Spawn,
    Stalled,
    State,
)

UP: list[Event] = [BackoffElapsed(), HealthPassed(), GenerationSucceeded()]


def a_lifecycle(limit: int = 3) -> Lifecycle:
    backoff = Backoff(max_s=60, limit=limit, window_s=600, random=lambda: 0.0)
    return Lifecycle(Deadlines(start_s=30, warm_s=20, drain_s=10, stop_s=5), backoff)


def in_state(state: State) -> Lifecycle:
    """A lifecycle put into a state, with the wish that lets it stay there."""
    lifecycle = a_lifecycle()
    lifecycle.state = state
    lifecycle.wanted = state not in (State.STOPPED, State.DRAINING, State.STOPPING)
    return lifecycle


def up(lifecycle: Lifecycle, now: float = 0.0) -> None:
    for event in UP:
        lifecycle.handle(event, now)
    assert lifecycle.state is State.READY


def announced(effects: list[object]) -> list[State]:
    return [effect.new for effect in effects if isinstance(effect, Announce)]


@pytest.mark.parametrize(
    ("state", "event", "to"), [(state, event, to) for state, events in ON.items() for event, to in events.items()]
)
def test_an_event_in_the_table_leads_where_it_says(state: State, event: type[Event], to: State) -> None:
    lifecycle = in_state(state)
    effects = lifecycle.handle(event("why"), 0.0)
    if state is to:
        assert Signal(Kill.KILL) in effects
    else:
        assert announced(effects)[0] is to


@pytest.mark.parametrize("state", State)
def test_an_event_that_is_not_raises_and_changes_nothing(state: State) -> None:
    for event in Event.__subclasses__():
        if event in ON[state]:
            continue
        lifecycle = in_state(state)
        before = repr(lifecycle)
        with pytest.raises(IllegalEvent):
            lifecycle.handle(event(), 0.0)
        assert repr(lifecycle) == before


@pytest.mark.parametrize(("row", "to"), WHEN.items())
def test_a_wish_leads_where_the_table_says(row: tuple[State, bool], to: State) -> None:
    state, wanted = row
    lifecycle = in_state(state)
    assert announced(lifecycle.want(wanted, 0.0))[0] is to


def test_the_way_up_and_the_way_down() -> None:
    lifecycle = a_lifecycle()
    assert SetDeadline(0.0, BackoffElapsed("time to start")) in lifecycle.want(True, 0.0)
    assert Spawn() in lifecycle.handle(BackoffElapsed(), 0.0)
    lifecycle.handle(HealthPassed(), 1.0)
    lifecycle.handle(GenerationSucceeded(), 2.0)
    assert lifecycle.state is State.READY
    lifecycle.want(False, 3.0)
    assert Signal(Kill.TERM) in lifecycle.handle(Drained(), 4.0)
    assert Signal(Kill.KILL) in lifecycle.handle(DeadlinePassed(), 9.0)
    lifecycle.handle(ProcessExited(), 9.1)
    assert (lifecycle.state, lifecycle.wanted) == (State.STOPPED, False)


@pytest.mark.parametrize(
    ("state", "how"), [(State.STARTING, Kill.KILL), (State.WARMING, Kill.TERM), (State.DRAINING, Kill.TERM)]
)
def test_what_was_never_healthy_is_killed_at_once_and_all_else_is_asked_first(state: State, how: Kill) -> None:
    late = in_state(state).handle(DeadlinePassed(), 0.0)
    assert [effect.how for effect in late if isinstance(effect, Signal)] == [how]
    if state is not State.DRAINING:
        unwanted = in_state(state).want(False, 0.0)
        assert [effect.how for effect in unwanted if isinstance(effect, Signal)] == [how]


def test_an_exit_that_was_not_asked_for_is_followed_by_a_longer_and_longer_pause() -> None:
    lifecycle = a_lifecycle(limit=10)
    lifecycle.want(True, 0.0)
    pauses = []
    for crash in range(4):
        up(lifecycle, float(crash))
        effects = lifecycle.handle(ProcessExited("exited with status 0"), float(crash))
        pauses += [effect.seconds for effect in effects if isinstance(effect, SetDeadline)]
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_crashing_too_often_is_the_end_for_a_while_and_long_ago_is_forgotten() -> None:
    lifecycle = a_lifecycle(limit=3)
    lifecycle.want(True, 0.0)
    for now in (0.0, 1000.0, 1001.0):
        up(lifecycle, now)
        lifecycle.handle(ProcessExited(), now)
        assert lifecycle.state is State.BACKOFF
    up(lifecycle, 1002.0)
    effects = lifecycle.handle(ProcessExited(), 1002.0)
    assert announced(effects) == [State.STOPPED, State.BACKOFF, State.FAILED]
    assert announced(lifecycle.handle(Reset(), 2000.0)) == [State.STOPPED, State.BACKOFF]


def test_an_engine_that_was_given_up_is_tried_once_at_a_time_and_ever_more_seldom() -> None:
    """B9: it has a way back, and costs little where there is none."""
    lifecycle, now, pauses = a_lifecycle(limit=3), 0.0, []
    effects = lifecycle.want(True, now)
    while len(pauses) < 8:
        deadline = next(effect for effect in effects if isinstance(effect, SetDeadline))
        if lifecycle.state is State.FAILED:
            pauses.append((lifecycle.spawns, deadline.seconds))
        now += deadline.seconds
        effects = lifecycle.handle(deadline.event, now)
        if lifecycle.state is State.STARTING:
            effects = lifecycle.handle(ProcessExited(), now)
    spawns, seconds = zip(*pauses, strict=True)
    assert spawns == (3, 4, 5, 6, 7, 8, 9, 10)
    assert seconds[0] < seconds[1] < seconds[2]
    assert seconds[-1] == 3600.0
    up(lifecycle, now)
    lifecycle.handle(ProcessExited(), now + 3000.0)
    assert lifecycle.state is State.BACKOFF, "it ran well, so it starts afresh"


@pytest.mark.parametrize("event", [Stalled(), DeadlinePassed()])
def test_a_stall_and_a_missed_start_count_as_crashes_once(event: Event) -> None:
    lifecycle = a_lifecycle(limit=10)
    lifecycle.want(True, 0.0)
    if isinstance(event, Stalled):
        up(lifecycle)
    else:
        lifecycle.handle(BackoffElapsed(), 0.0)
    lifecycle.handle(event, 0.0)
    effects = lifecycle.handle(ProcessExited(), 0.0)
    assert [effect.seconds for effect in effects if isinstance(effect, SetDeadline)] == [1.0]


def test_a_restart_that_was_asked_for_is_no_crash() -> None:
    lifecycle = a_lifecycle(limit=1)
    lifecycle.want(True, 0.0)
    up(lifecycle)
    lifecycle.want(False, 1.0)
    lifecycle.want(True, 1.0)
    lifecycle.handle(Drained(), 1.0)
    effects = lifecycle.handle(ProcessExited(), 2.0)
    assert announced(effects) == [State.STOPPED, State.BACKOFF]
    assert [effect.seconds for effect in effects if isinstance(effect, SetDeadline)] == [0.0]


def reachable(start: State, wanted: bool) -> set[State]:
    """All states that events and one wish can lead to."""
    found, frontier = {start}, [start]
    while frontier:
        state = frontier.pop()
        follows = [*ON[state].values(), *([WHEN[state, wanted]] if (state, wanted) in WHEN else [])]
        for to in follows:
            if to not in found:
                found.add(to)
                frontier.append(to)
    return found


def test_the_tables_let_every_state_be_reached_and_every_wish_come_true() -> None:
    assert reachable(State.STOPPED, True) | reachable(State.READY, False) == set(State)
    for state in State:
        assert State.READY in reachable(state, True)
        down = reachable(state, False) - {state}
        assert not down & {State.STARTING, State.READY} or state in (State.STARTING, State.WARMING, State.BACKOFF)
        assert State.STOPPED in reachable(state, False)
