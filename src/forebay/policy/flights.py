"""Is it being answered already? Of identical requests at once, one leads and the others wait for its answer. Pure.

Each has a seat, held until its exchange is over. What becomes of those that wait, when the leader's seat is given back:

    it delivered an answer                      all have it
    it was cancelled, or failed                 the next of them leads, and the others wait on
    it was refused, or its answer is not kept   each goes on alone: the next would fare no better
"""

from collections.abc import Callable
from enum import Enum

from forebay.policy.cache import Entry
from forebay.policy.verdict import Lease, Outcome

MOST_WAITING = 4096  # behind one leader


class Turn(Enum):
    """What one that waits is told, where there is no answer for it."""

    LEAD = "lead"
    ALONE = "alone"


Told = Entry | Turn
_HANDED_ON = ("cancelled", "failed")


class Seat(Lease):
    """One request's part in a flight."""

    __slots__ = ("_flights", "_tell", "key", "leads")

    def __init__(self, flights: "Flights", key: bytes, tell: Callable[[Told], None], *, leads: bool) -> None:
        super().__init__(self._over)
        self._flights = flights
        self._tell = tell
        self.key = key
        self.leads = leads

    def __repr__(self) -> str:
        return f"<Seat {self.key.hex()[:8]} {'leads' if self.leads else 'waits'}>"

    def deliver(self, entry: Entry) -> None:
        """The leader has an answer: give it to all who wait."""
        self._flights.land(self, entry)

    def leave(self) -> None:
        """Wait no longer."""
        self._flights.leave(self)

    def tell(self, told: Told) -> None:
        self.leads = told is Turn.LEAD
        self._tell(told)

    def _over(self, held: int, outcome: Outcome, now: float) -> None:
        if not self.leads:
            self._flights.leave(self)
        elif outcome in _HANDED_ON:
            self._flights.hand_on(self)
        else:
            self._flights.land(self, Turn.ALONE)


class Flights:
    """All flights, by what is asked for; those that wait in the order they came."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._waiting: dict[bytes, dict[Seat, None]] = {}

    def __repr__(self) -> str:
        return f"<Flights {len(self)}, {sum(map(len, self._waiting.values()))} waiting>"

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, key: bytes, tell: Callable[[Told], None]) -> Seat | None:
        """A seat: the leader's, where there is no flight yet. None where too many wait: go on alone."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = {}
            return Seat(self, key, tell, leads=True)
        if len(waiting) >= self._most_waiting:
            return None
        seat = Seat(self, key, tell, leads=False)
        waiting[seat] = None
        return seat

    def leave(self, seat: Seat) -> None:
        if (waiting := self._waiting.get(seat.key)) is not None:
            waiting.pop(seat, None)

    def land(self, leader: Seat, told: Told) -> None:
        """The flight is over: tell all who wait."""
        leader.leads = False
        for seat in self._waiting.pop(leader.key):
            seat.tell(told)

    def hand_on(self, leader: Seat) -> None:
        """The next of those who wait leads; without any the flight is over."""
        leader.leads = False
        waiting = self._waiting[leader.key]
        if not waiting:
            del self._waiting[leader.key]
            return
        heir = next(iter(waiting))
        del waiting[heir]
        heir.tell(Turn.LEAD)
