"""How much one model is asked for at once: prompts in a request (`size`), requests under way (`places`), and from when.

The size doubles while that makes a prompt cheaper: while the time of a request, divided by what it generated, falls.
Where it no longer falls the engine is as busy as it can be; the size goes back by one step, and is tried again after a
while. Only full requests are evidence: a small one says nothing of what a larger one would cost.

Where the gateway says that it is too much (429, 503), size and places are halved, once for all requests that were sent
before. A place comes back with every `REST` answers: whoever may have three requests at once is not refused a fourth
again and again. Pure: the time is an argument.
"""

from math import inf
from statistics import median

FIRST_SIZE = 8
SAMPLES = 3  # full requests before a size is judged
FALLS = 0.95  # cheaper is only what costs less than this share
REST = 20  # answers before what was too much is tried again


class Pace:
    """See the module's text. `running` counts the model's requests under way."""

    def __init__(self, max_size: int, max_places: int) -> None:
        self.size = min(FIRST_SIZE, max_size)
        self.places = max_places
        self.running = 0
        self.paused_until = -inf
        self._max_size = max_size
        self._max_places = max_places
        self._smaller: tuple[int, float] | None = None  # the size before this one, and what it cost
        self._costs: list[float] = []
        self._rest = 0
        self._calm = 0  # answers since the places last changed
        self._resized_at = self._refused_at = -inf

    def __repr__(self) -> str:
        return f"<Pace size={self.size} places={self.running}/{self.places}>"

    @property
    def has_place(self) -> bool:
        return self.running < self.places

    def is_open(self, now: float) -> bool:
        """Whether one more request may be sent now."""
        return self.has_place and now >= self.paused_until

    def pause(self, until: float) -> None:
        self.paused_until = max(self.paused_until, until)

    def answered(self, prompts: int, cost_s: float, sent_at: float, now: float) -> None:
        """A request with so many prompts, sent then, was answered; `cost_s` is its time for each unit of its work."""
        self._calm += 1
        if self._calm >= REST:
            self.places = min(self.places + 1, self._max_places)
            self._calm = 0
        if prompts != self.size or sent_at < self._resized_at:
            return
        if self._rest:
            self._rest -= 1
            return
        self._costs.append(cost_s)
        if len(self._costs) == SAMPLES:
            self._judge(median(self._costs), now)

    def refused(self, sent_at: float, now: float) -> None:
        """A request that was sent then was too much."""
        if sent_at < self._refused_at:
            return
        self._refused_at = now
        self.places = max(self.places // 2, 1)
        self._smaller = None
        self._rest, self._calm = REST, 0
        self._resize(max(self.size // 2, 1), now)

    def _judge(self, cost: float, now: float) -> None:
        """There are three cases: growing has not helped; there is room to grow; all is well at the largest size."""
        smaller, self._smaller = self._smaller, None
        if smaller is not None and cost > smaller[1] * FALLS:
            self._rest = REST
            self._resize(smaller[0], now)
        elif self.size < self._max_size:
            self._smaller = self.size, cost
            self._resize(min(self.size * 2, self._max_size), now)
        else:
            self._rest = REST
            self._costs = []

    def _resize(self, size: int, now: float) -> None:
        self.size = size
        self._resized_at = now
        self._costs = []
