"""Is there room now, or is there a line? As many requests are relayed to a model's engines as they can take.

The others wait in a bounded queue, in the order that `fairness.py` says, and are let in as places come free. There are
six ways not to be let in, each a refusal at once, before any work was done:

    full       as many wait as may, and this tenant's are no fewer than anybody else's
    hopeless   at the rate at which places come free it would wait for longer than it is ready to
    standing   the queue was never empty for long, and this one's wait would be above what such a queue is kept to
    deadline   it has waited for as long as it was ready to
    gave_way   the queue was full, its tenant had most waiting, and another tenant's request came
    too_many   more requests are under way in all than this gateway takes

A tenant that sends one request at a time, each as soon as it has the answer to the last, would find its place taken
whenever it comes back, and wait for the next. So its place is kept for a moment, if it is seen to come back within
that, and if it would be its turn.

A place alone is not enough where engines have as much to read as they should (`prefill.py`): then the next waits for
that, and so does who comes after it.

What is served is charged to the tenant: the prompt when a request is let in, the answer as it is generated, both put
right when the engine has told its own count.
"""

from collections.abc import Callable, Container
from math import inf

from forebay.policy.auth import Principal
from forebay.policy.line import KEPT_S, AdmissionRules, Line, Place, Promise
from forebay.policy.verdict import Lease, Outcome
from forebay.refusals import Overloaded

_MOST_WAIT_S = 24.0  # before it is jittered by a quarter


class Admission:
    """All models' lines. `capacity` tells how many requests a model's engines take at once, 0 where none is ready;
    `promise` makes what a request waits for; `random` is between 0 and 1. A request for one of `standby`'s models waits
    where there is no engine, too."""

    def __init__(
        self,
        rules: AdmissionRules,
        capacity: Callable[[str], int],
        promise: Callable[[], Promise],
        random: Callable[[], float],
        standby: Container[str] = (),
    ) -> None:
        self.rules = rules
        self.promise = promise
        self.under_way = 0
        self.lines: dict[str, Line] = {}
        self._fair = rules.fair
        self._capacity = capacity
        self._random = random
        self._standby = standby

    def __repr__(self) -> str:
        return f"<Admission {self.under_way}/{self.rules.most_under_way} {list(self.lines.values())}>"

    def acquire(
        self,
        principal: Principal,
        model: str,
        input_tokens: int,
        now: float,
        patience_s: float = inf,
        *,
        stream: bool = False,
    ) -> Place:
        """Take a place, or a place in the line for one (then `granted` is to be awaited). Raises `Overloaded`."""
        if self.under_way >= self.rules.most_under_way:
            raise self._too_many()
        line = self.lines.get(model)
        if line is None:
            line = self._open(model)
        queue = line.queue
        tenant = queue.arrived(principal.tenant, principal.weight) if self._fair else queue.arrived("", 1.0)
        place = Place(line, tenant, principal.priority, input_tokens, stream=stream)
        if line.running < line.limit and not queue.size and (not line.bounded or line.has_room(input_tokens)):
            queue.let_in(tenant)
            line.start(place, now)
        else:
            self._wait(line, place, now, patience_s)
        tenant.held += 1
        self.under_way += 1
        return place

    def change(self, rules: AdmissionRules) -> None:
        """Go by other rules from now on; in which order, only where nobody is under way."""
        self.rules = rules
        for line in self.lines.values():
            line.follow(rules)

    def acquire_unqueued(self) -> Lease:
        """Count a request that is no work for an engine's core. Raises `Overloaded`."""
        if self.under_way >= self.rules.most_under_way:
            raise self._too_many()
        self.under_way += 1
        return Lease(self._left)

    def sweep(self, now: float) -> None:
        """Follow the engines that come and go, and turn away those whose time is over; called a few times a second."""
        for line in self.lines.values():
            line.limit = self._capacity(line.model)
            line.prefill.sweep(now)
            line.expire(now)
            line.let_in(now)

    def jittered(self, seconds: float) -> float:
        """About so many seconds, at most 30, so that not all come back at once."""
        return min(max(seconds, 1.0), _MOST_WAIT_S) * (0.75 + 0.5 * self._random())

    @property
    def queued(self) -> int:
        return sum(line.queue.size for line in self.lines.values())

    def _wait(self, line: Line, place: Place, now: float, patience_s: float) -> None:
        if line.limit == 0:
            line.limit = self._capacity(line.model)
            line.let_in(now)
            nothing_to_wait_for = line.limit == 0 and line.model not in self._standby  # routing says so, and why
            if nothing_to_wait_for or (
                line.running < line.limit and not line.queue.size and line.has_room(place.input_tokens)
            ):
                line.start(place, now)
                return
        if not place.tenant.held:
            place.tenant.returns = now - place.tenant.left_at < KEPT_S
            if line.start_in_kept(place, now):
                return
        rules = self.rules
        for_reading_alone = line.running + line.queue.size < line.limit  # else it would be at an engine, and wait there
        place.deadline = now + min(patience_s, rules.reading_s if for_reading_alone else rules.patience_s)
        line.join(place, now)
        line.let_in(now)  # there may be room for this one, and it its turn, though there was none for who waits

    def _open(self, model: str) -> Line:
        line = self.lines[model] = Line(self, model)
        line.limit = self._capacity(model)
        return line

    def _too_many(self) -> Overloaded:
        refusal = Overloaded(
            f"The service is busy with {self.rules.most_under_way} requests, as many as it takes. Try again shortly.",
            retry_after_s=self.jittered(1.0),
        )
        refusal.spread = False  # it is already
        refusal.facts = {"reason": "too_many", "running": self.under_way, "places": self.rules.most_under_way}
        return refusal

    def _left(self, held: int, outcome: Outcome, now: float) -> None:
        self.under_way -= held
