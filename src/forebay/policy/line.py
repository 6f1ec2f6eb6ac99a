"""One model's line: who has a place at its engines, who waits for one, and whose place is kept. See `admission.py`."""

from collections.abc import Awaitable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from math import ceil, inf
from typing import TYPE_CHECKING, Literal, Protocol

from forebay.policy.drain_rate import DrainRate
from forebay.policy.fairness import FairQueue, Tenant
from forebay.policy.prefill import Prefill, Prompt
from forebay.policy.standing import Standing
from forebay.policy.verdict import Outcome
from forebay.refusals import Overloaded, Refusal

if TYPE_CHECKING:
    from forebay.policy.admission import Admission

Reason = Literal["full", "hopeless", "standing", "deadline", "gave_way"]
REASONS: tuple[Reason, ...] = ("full", "hopeless", "standing", "deadline", "gave_way")
# For a place; for engines to have read what they were sent; for those ahead of it in line.
Waits = Literal["engines_full", "engines_reading", "own_requests_first", "others_first"]
Seen = tuple[int, int, int, int, float | None]  # places taken, and all; waiting; of the tenant; about how long, seconds
KEPT_S = 0.1
_SLACK = 64  # entries of requests long gone that the heap of deadlines may hold before it is made anew
_UNKNOWN_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """`most_under_way` in all; `most_queued` a model; a queue that stands is kept to `target_s`; `fair`, else first
    come, first served; what a token weighs; engines have no more unread than they read in `prefill_s`, and who waits
    for that alone may wait for `reading_s`."""

    most_under_way: int
    most_queued: int
    patience_s: float
    target_s: float = inf
    fair: bool = True
    input_weight: float = 1.0
    output_weight: float = 2.0
    prefill_s: float = inf
    reading_s: float = inf


class Promise(Awaitable[None], Protocol):
    """What a request waits for; asyncio's future is one."""

    def set_result(self, result: None, /) -> None: ...
    def set_exception(self, refusal: Refusal, /) -> None: ...
    def exception(self) -> BaseException | None: ...


class Place(Prompt):
    """One request's place at a model's engines, or in the line for one. `deadline` is when it gives up waiting; `ahead`
    its place in line when it came, about; `seen` how things stood then (`Seen`)."""

    __slots__ = (
        *("_line", "ahead", "cost", "deadline", "input_tokens", "priority", "promise", "running", "stream", "tenant"),
        *("seen", "waits_for"),
    )

    deadline: float  # this and the next three are there where it has waited
    promise: Promise | None
    ahead: int
    waits_for: Waits
    seen: "Seen"

    def __init__(self, line: "Line", tenant: Tenant, priority: int, input_tokens: int, *, stream: bool) -> None:
        self._line: Line | None = line
        self.tenant = tenant
        self.priority = priority
        self.input_tokens = input_tokens
        self.stream = stream
        self.backlog = self.unread = 0
        self.cost = 0.0
        self.running = False
        self.granted = None

    def __repr__(self) -> str:
        return f"<Place of {self.tenant.name} {'running' if self.running else 'waiting'}>"

    def served(self, input_tokens: int, output_tokens: int) -> None:
        """So much has been served in all, up to now; while it waits, nothing has."""
        line, tenant = self._line, self.tenant
        if line is None or not self.running:
            return
        change = line.input_weight * input_tokens + line.output_weight * output_tokens - self.cost
        self.cost += change
        tenant.counter += change / tenant.weight
        if change < 0 and tenant.lanes:
            line.queue.lowered(tenant)

    def read(self, now: float, took_s: float) -> None:
        """An engine has read its prompt, that long after it was sent it."""
        line = self._line
        if line is not None and line.bounded and self.running:
            line.read(self, now, took_s)

    def release(self, outcome: Outcome, now: float) -> None:
        line, self._line = self._line, None
        if line is None:
            raise RuntimeError("a place was released twice")
        line.left(self, now)


class Line:
    """One model's places, and who waits for them."""

    def __init__(self, admission: "Admission", model: str) -> None:
        self.model = model
        self.limit = 0
        self.running = 0
        self.queue: FairQueue[Place] = FairQueue()
        self.refused = dict.fromkeys(REASONS, 0)
        self._admission = admission
        self._standing = Standing(inf, inf)
        self.prefill = Prefill()
        self.follow(admission.rules)
        self.kept: dict[Tenant, float] = {}  # whose place is kept, until when; these count as running
        self._drain = DrainRate()
        self._deadlines: list[tuple[float, int, Place]] = []
        self._ties = count()

    def __repr__(self) -> str:
        return f"<Line {self.model} running={self.running}/{self.limit} queued={self.queue.size}>"

    def follow(self, rules: AdmissionRules) -> None:
        """Go by these rules from now on."""
        self._most_queued = rules.most_queued
        self._standing.target_s, self._standing.after_s = rules.target_s, rules.patience_s
        self.input_weight = rules.input_weight
        self.output_weight = rules.output_weight
        self.bounded = rules.prefill_s < inf
        self.prefill.follow(rules.prefill_s)

    def has_room(self, tokens: int) -> bool:
        """Whether engines have room for a prompt of so many tokens, a place aside."""
        return not self.bounded or self.prefill.has_room(tokens)

    def start(self, place: Place, now: float) -> None:
        """It is let in: its prompt is charged."""
        self.running += 1
        if self.bounded:
            self.prefill.sent(place, place.input_tokens, now, stream=place.stream)
        place.running = True
        tenant = place.tenant
        place.cost = self.input_weight * place.input_tokens
        tenant.counter += place.cost / tenant.weight

    def start_in_kept(self, place: Place, now: float) -> bool:
        """Let it have the place that was kept for its tenant, if one was."""
        if place.tenant not in self.kept or not self.has_room(place.input_tokens):
            return False
        del self.kept[place.tenant]
        self.running -= 1
        self.queue.let_in(place.tenant)
        self.start(place, now)
        return True

    def join(self, place: Place, now: float) -> None:
        """Let it wait for its turn, if there is a point in that. Raises `Overloaded`."""
        queue, tenant, priority = self.queue, place.tenant, place.priority
        ahead = queue.ahead(tenant, priority)
        wait_s = self._drain.wait_s(ahead, now, places=self.limit, waiting=queue.size > 0)
        if self.limit and wait_s is not None:
            self._see_a_point(place, wait_s, now)
        if queue.size >= self._most_queued:
            other = queue.gives_way(tenant, priority) if queue.size else None
            if other is None:
                raise self._refusal("full", f"The queue for this model is full ({queue.size}).", now)
            self._turn_away(other, self._refusal("gave_way", "Others with fewer requests waiting came.", now))
        if not queue.size:
            self._drain.waiting_began(now)
            self._standing.began(now)
        place.ahead = ceil(ahead)
        place.waits_for = self._waits_for(tenant)
        place.seen = self.running, self.limit, queue.size, tenant.held, wait_s
        queue.push(tenant, priority, place)
        place.promise = self._admission.promise()
        place.granted = place.promise
        heappush(self._deadlines, (place.deadline, next(self._ties), place))
        if len(self._deadlines) > 2 * queue.size + _SLACK:
            self._deadlines = [entry for entry in self._deadlines if entry[2].promise is not None]
            heapify(self._deadlines)

    def _waits_for(self, tenant: Tenant) -> Waits:
        """What a newcomer waits for, about to join: its tenant's own requests come first before anybody else's."""
        if self.queue.size:
            return "own_requests_first" if tenant.lanes else "others_first"
        return "engines_full" if self.running >= self.limit else "engines_reading"

    def _see_a_point(self, place: Place, wait_s: float, now: float) -> None:
        """Raises `Overloaded` where it would wait for too long."""
        if now + wait_s > place.deadline:
            raise self._refusal("hopeless", f"It would take about {wait_s:.0f} s to come to this request.", now)
        if self.queue.size and wait_s > self._standing.most_wait_s(now):
            self._standing.refused(now)
            raise self._refusal("standing", "More requests come than can be served, and the queue is kept short.", now)

    def left(self, place: Place, now: float) -> None:
        """It is over, or its caller no longer waits."""
        place.tenant.held -= 1
        self._admission.under_way -= 1
        if place.unread:
            self.prefill.read(place, now, None)
        if place.running and self.queue.size:
            self._drain.freed(now, self.limit)
            if self._keeps(place, now):
                self.kept[place.tenant] = now + KEPT_S
            else:
                self.running -= 1
            self.let_in(now)
        elif place.running:
            self.running -= 1
        elif place.promise is not None:
            place.promise = None
            self.queue.remove(place.tenant, place.priority, place)
            self.let_in(now)  # who is behind a long prompt may have room now

    def read(self, place: Place, now: float, took_s: float) -> None:
        """An engine has read a prompt: there may be room for another."""
        self.prefill.read(place, now, took_s)
        if self.queue.size:
            self.let_in(now)

    def let_in(self, now: float) -> None:
        """Give the free places to those whose turn it is."""
        while self.queue.size and self.running < self.limit:
            place = self.queue.next()
            late = place.deadline <= now
            if not late and not self.has_room(place.input_tokens):
                return
            self.queue.pop()
            promise, place.promise = place.promise, None
            assert promise is not None
            if late:
                self._break(promise, self._too_late(now))
            else:
                self.start(place, now)
                promise.set_result(None)

    def _keeps(self, place: Place, now: float) -> bool:
        """Whether its tenant will be back in a moment, and it would be its turn."""
        tenant = place.tenant
        if tenant.held:
            return False
        tenant.left_at = now
        return tenant.returns and self.running <= self.limit and self.queue.would_be_next(tenant, place.priority)

    def expire(self, now: float) -> None:
        """Turn away those whose time is over, and keep no place for longer than a moment."""
        for tenant in [tenant for tenant, until in self.kept.items() if until <= now]:
            del self.kept[tenant]
            self.running -= 1
        while self._deadlines and self._deadlines[0][0] <= now:
            place = heappop(self._deadlines)[2]
            if place.promise is not None:
                self._turn_away(place, self._too_late(now))

    def _too_late(self, now: float) -> Refusal:
        return self._refusal("deadline", "It was not this request's turn within the time it may wait.", now)

    def _turn_away(self, place: Place, refusal: Refusal) -> None:
        promise, place.promise = place.promise, None
        assert promise is not None
        self.queue.remove(place.tenant, place.priority, place)
        self._break(promise, refusal)

    def _break(self, promise: Promise, refusal: Refusal) -> None:
        promise.set_exception(refusal)
        promise.exception()  # whoever waits is told; nobody has to wait

    def _refusal(self, reason: Reason, why: str, now: float) -> Overloaded:
        self.refused[reason] += 1
        wait_s = self._drain.wait_s(self.queue.size + 1, now, places=self.limit, waiting=self.queue.size > 0)
        retry_s = self._admission.jittered(_UNKNOWN_WAIT_S if wait_s is None else wait_s)
        refusal = Overloaded(f"The service is busy. {why} Try again in {ceil(retry_s)} s.", retry_after_s=retry_s)
        refusal.spread = False  # it is already
        refusal.facts = {
            "reason": reason,
            "running": self.running,
            "places": self.limit,
            "waiting": self.queue.size,
            "most_waiting": self._most_queued,
            "wait_s": None if wait_s is None else round(wait_s, 3),
        }
        return refusal
