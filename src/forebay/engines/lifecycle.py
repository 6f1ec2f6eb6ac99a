"""The life of an engine as two tables. Pure: no clock, no I/O; what is to be done comes back as effects.

`ON` says where an event leads, `WHEN` what follows from whether the engine is wanted, applied until nothing changes.
An event that is not in the table for the state is a bug of the caller: it raises and changes nothing.

    STOPPED   no process                         STARTING  process runs, /health does not answer yet
    BACKOFF   waits before the next start        WARMING   healthy, its first generation is under way
    READY     has generated: may be asked        DRAINING  no new requests, old ones finish
    STOPPING  asked to end, then killed          FAILED    crashed too often: is tried but seldom

An exit that was not asked for is a crash whatever its status: vLLM exits with 0 when its engine dies. A stop that a
stall or a missed start deadline caused counts as a crash too; one that was asked for does not.

What is not healthy yet is not asked to end but killed: vLLM ignores SIGTERM while it loads, and nothing is lost.
"""

from dataclasses import dataclass
from enum import Enum

from forebay.engines.backoff import Backoff


class State(Enum):
    STOPPED = "stopped"
    BACKOFF = "backoff"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


# Events


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to the engine; `why` is what an operator is told."""

    why: str = ""


class BackoffElapsed(Event):
    """The pause before a start is over."""


class CrashLoop(Event):
    """It crashed too often to be started again."""


class HealthPassed(Event):
    """/health answered 200."""


class GenerationSucceeded(Event):
    """A real generation came back."""


class DeadlinePassed(Event):
    """The state's time is over."""


class Stalled(Event):
    """It no longer makes progress."""


class Drained(Event):
    """No request is under way any more."""


class ProcessExited(Event):
    """The process ended."""


class Reset(Event):
    """It has been left alone for long enough: once more."""


# Effects


class Kill(Enum):
    """How hard to ask."""

    TERM = "term"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Ask the process to end, or end it and all it started."""

    how: Kill


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Send `event` after `seconds`, in place of any earlier deadline."""

    seconds: float
    event: Event


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask /health until it answers."""


@dataclass(frozen=True, slots=True)
class Warm:
    """Have it generate until it succeeds."""


@dataclass(frozen=True, slots=True)
class Watch:
    """See whether it goes on working."""


@dataclass(frozen=True, slots=True)
class Announce:
    """The state changed."""

    old: State
    new: State
    why: str


Effect = Spawn | Signal | SetDeadline | Probe | Warm | Watch | Announce

ON: dict[State, dict[type[Event], State]] = {
    State.STOPPED: {},
    State.BACKOFF: {BackoffElapsed: State.STARTING, CrashLoop: State.FAILED},
    State.STARTING: {
        HealthPassed: State.WARMING,
        DeadlinePassed: State.STOPPING,
        ProcessExited: State.STOPPED,
    },
    State.WARMING: {
        GenerationSucceeded: State.READY,
        DeadlinePassed: State.STOPPING,
        ProcessExited: State.STOPPED,
    },
    State.READY: {Stalled: State.STOPPING, ProcessExited: State.STOPPED},
    State.DRAINING: {
        Drained: State.STOPPING,
        DeadlinePassed: State.STOPPING,
        ProcessExited: State.STOPPED,
    },
    State.STOPPING: {DeadlinePassed: State.STOPPING, ProcessExited: State.STOPPED},
    State.FAILED: {Reset: State.STOPPED},
}

WHEN: dict[tuple[State, bool], State] = {
    (State.STOPPED, True): State.BACKOFF,
    (State.BACKOFF, False): State.STOPPED,
    (State.FAILED, False): State.STOPPED,
    (State.STARTING, False): State.STOPPING,
    (State.WARMING, False): State.STOPPING,
    (State.READY, False): State.DRAINING,
}


class IllegalEvent(Exception):
    """An event that cannot happen in the state the engine is in."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a state may last, seconds."""

    start_s: float
    warm_s: float
    drain_s: float
    stop_s: float


class Lifecycle:
    """One engine's state. Feed it events and wishes; do what it returns."""

    def __init__(self, deadlines: Deadlines, backoff: Backoff) -> None:
        self.state = State.STOPPED
        self.wanted = False
        self.spawns = 0
        self._deadlines = deadlines
        self._backoff = backoff

    def __repr__(self) -> str:
        wish = "wanted" if self.wanted else "not wanted"
        return f"<Lifecycle {self.state.value}, {wish}, {self.spawns} spawns>"

    def want(self, wanted: bool, now: float) -> list[Effect]:
        """Wish the engine up or down. A restart is not wanting it, then wanting it."""
        self.wanted = wanted
        return self._settle("wanted" if wanted else "not wanted any more", now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event in; return what is to be done, in order. Raises `IllegalEvent`."""
        to = ON[self.state].get(type(event))
        if to is None:
            raise IllegalEvent(f"{type(event).__name__} in state {self.state.value}")
        if self._is_crash(event):
            self._backoff.crashed(now)
        killing = self.state is State.STOPPING and to is State.STOPPING
        if isinstance(event, Reset):
            self._backoff.try_once(now)
        effects = self._kill() if killing else self._enter(to, event.why or _words(event), now)
        return effects + self._settle(event.why or _words(event), now)

    def _is_crash(self, event: Event) -> bool:
        match event:
            case ProcessExited():
                return self.state is not State.STOPPING and self.wanted
            case Stalled():
                return True
            case DeadlinePassed():
                return self.state in (State.STARTING, State.WARMING)
        return False

    def _settle(self, why: str, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while (to := WHEN.get((self.state, self.wanted))) is not None:
            effects += self._enter(to, why, now)
        return effects

    def _enter(self, to: State, why: str, now: float) -> list[Effect]:
        old, self.state = self.state, to
        effects = self._kill() if (old, to) == (State.STARTING, State.STOPPING) else self._on_entering(to, now)
        return [Announce(old, to, why), *effects]

    def _on_entering(self, state: State, now: float) -> list[Effect]:
        limits = self._deadlines
        match state:
            case State.BACKOFF:
                if self._backoff.looping(now):
                    return self.handle(CrashLoop(f"crashed {self._backoff.limit} times in a short while"), now)
                return [SetDeadline(self._backoff.delay_s(now), BackoffElapsed("time to start"))]
            case State.STARTING:
                self.spawns += 1
                late = DeadlinePassed(f"not healthy within {limits.start_s:g} s")
                return [Spawn(), SetDeadline(limits.start_s, late), Probe()]
            case State.WARMING:
                late = DeadlinePassed(f"no generation within {limits.warm_s:g} s")
                return [SetDeadline(limits.warm_s, late), Warm()]
            case State.READY:
                return [Watch()]
            case State.DRAINING:
                return [SetDeadline(limits.drain_s, DeadlinePassed("drain time is over"))]
            case State.STOPPING:
                return [Signal(Kill.TERM), SetDeadline(limits.stop_s, DeadlinePassed("did not end when asked"))]
            case State.FAILED:
                return [SetDeadline(self._backoff.give_up(), Reset("has been left alone for a while"))]
        return []

    def _kill(self) -> list[Effect]:
        again = DeadlinePassed("did not end when killed")
        return [Signal(Kill.KILL), SetDeadline(self._deadlines.stop_s, again)]


def _words(event: Event) -> str:
    """An event's name as words."""
    name = type(event).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
