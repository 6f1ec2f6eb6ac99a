"""Which calls go out together, and when. Pure: the time is an argument, a call is whatever the caller keeps of it.

Calls with equal parameters wait in one *lane*, in the order they came, and share a request. A lane's next request is
due

1. when it is full: there are as many calls as the model's `Pace` allows;
2. when its first call has waited `max_wait_s`;
3. when none of the model's requests is under way: waiting would gain nothing;

and it is sent once a place is free, of `max_concurrency` and of the model's own. So with a free place, and without a
pause that the gateway has asked for, no call waits longer than `max_wait_s`. Lanes take turns.

Calls that are to be asked again go to the front of their lane. The two halves of a request that was refused for one of
its prompts stay apart from all others and go first: they end at the one prompt that it was.
"""

from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from forebay.client.pace import Pace

CallT = TypeVar("CallT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Lane:
    """Calls that may share a request: the same model, the same parameters (as JSON), and the same kind of prompt."""

    model: str
    parameters: bytes
    kind: str


@dataclass(eq=False, slots=True)
class Batch(Generic[CallT]):
    """One request's calls."""

    lane: Lane
    calls: list[CallT]
    sent_at: float = 0.0


class Batcher(Generic[CallT]):
    """See the module's text. Every batch from `due` must come back once: `answered`, `again`, `split` or `dropped`."""

    def __init__(self, max_size: int, max_wait_s: float, max_concurrency: int) -> None:
        self.in_flight: set[Batch[CallT]] = set()
        self.hurry = False  # nobody else will come: wait for no more calls
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._max_concurrency = max_concurrency
        self._lanes: OrderedDict[Lane, OrderedDict[CallT, float]] = OrderedDict()  # since when each call waits
        self._halves: list[Batch[CallT]] = []
        self._paces: dict[str, Pace] = {}

    def __repr__(self) -> str:
        return f"<Batcher waiting={self.waiting} in_flight={len(self.in_flight)} {self._paces}>"

    @property
    def waiting(self) -> int:
        """How many calls are not under way."""
        return sum(map(len, self._lanes.values())) + sum(len(half.calls) for half in self._halves)

    def pace(self, model: str) -> Pace:
        return self._paces.setdefault(model, Pace(self._max_size, self._max_concurrency))

    def add(self, lane: Lane, call: CallT, now: float) -> None:
        self.pace(lane.model)
        self._lanes.setdefault(lane, OrderedDict())[call] = now

    def remove(self, lane: Lane, call: CallT) -> None:
        """The call is wanted no more; nothing happens where it is under way."""
        if (calls := self._lanes.get(lane)) is not None and call in calls:
            del calls[call]
            if not calls:
                del self._lanes[lane]
        for half in [one for one in self._halves if call in one.calls]:
            half.calls.remove(call)
            if not half.calls:
                self._halves.remove(half)

    def due(self, now: float) -> list[Batch[CallT]]:
        """What is to be sent now."""
        idle = {model for model, pace in self._paces.items() if pace.running == 0}
        batches: list[Batch[CallT]] = []
        while len(self.in_flight) < self._max_concurrency and (batch := self._half(now) or self._next(now, idle)):
            batch.sent_at = now
            self.pace(batch.lane.model).running += 1
            self.in_flight.add(batch)
            batches.append(batch)
        return batches

    def next_at(self, now: float) -> float | None:
        """When `due` has something, if nothing else happens before; asked after `due`."""
        if len(self.in_flight) >= self._max_concurrency:
            return None
        times = [pace.paused_until for half in self._halves if (pace := self.pace(half.lane.model)).has_place]
        for lane in self._lanes:
            if (pace := self.pace(lane.model)).has_place:
                due_at = self._due_at(lane) if pace.running else -inf
                times.append(max(due_at, pace.paused_until))
        return max(min(times), now) if times else None

    def answered(self, batch: Batch[CallT], tokens: int | None, now: float) -> None:
        """It has its answers, of so many tokens in all (by the token, long and short answers compare)."""
        self.dropped(batch)
        cost_s = (now - batch.sent_at) / (tokens or len(batch.calls))
        self.pace(batch.lane.model).answered(len(batch.calls), cost_s, batch.sent_at, now)

    def again(self, batch: Batch[CallT], calls: Sequence[CallT], at: float, now: float, *, too_much: bool) -> None:
        """These calls of it are to be asked again, nothing of the model before `at`."""
        self.dropped(batch)
        pace = self.pace(batch.lane.model)
        pace.pause(at)
        if too_much:
            pace.refused(batch.sent_at, now)
        if calls:
            lane = self._lanes.setdefault(batch.lane, OrderedDict())
            for call in reversed(calls):
                lane[call] = -inf
                lane.move_to_end(call, last=False)
            self._lanes.move_to_end(batch.lane, last=False)

    def split(self, batch: Batch[CallT], calls: Sequence[CallT]) -> None:
        """It was refused for one of its prompts: ask for these calls of it again, in halves."""
        self.dropped(batch)
        middle = len(calls) // 2
        self._halves += [Batch(batch.lane, list(half)) for half in (calls[:middle], calls[middle:]) if half]

    def dropped(self, batch: Batch[CallT]) -> None:
        """It is under way no more."""
        self.in_flight.remove(batch)
        self.pace(batch.lane.model).running -= 1

    def _half(self, now: float) -> Batch[CallT] | None:
        half = next((one for one in self._halves if self.pace(one.lane.model).is_open(now)), None)
        if half is not None:
            self._halves.remove(half)
        return half

    def _next(self, now: float, idle: Collection[str]) -> Batch[CallT] | None:
        for lane, calls in self._lanes.items():
            pace = self.pace(lane.model)
            if pace.is_open(now) and (lane.model in idle or now >= self._due_at(lane)):
                batch = Batch(lane, [calls.popitem(last=False)[0] for _ in range(min(pace.size, len(calls)))])
                self._lanes.move_to_end(lane)
                if not calls:
                    del self._lanes[lane]
                return batch
        return None

    def _due_at(self, lane: Lane) -> float:
        calls = self._lanes[lane]
        if self.hurry or len(calls) >= self.pace(lane.model).size:
            return -inf
        return next(iter(calls.values())) + self._max_wait_s
