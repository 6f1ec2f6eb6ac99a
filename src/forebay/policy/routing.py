"""Which replica? First a group, where a model has several (`canary.py`), then one of its replicas, by one rule of:

    round_robin        each in turn
    least_outstanding  the one with the fewest tokens outstanding, by our own count; among equals each in turn
    prefix             the one that the conversation was with before (`affinity.py`, `ring.py`), unless it is much
                       busier than the rest; least outstanding where no conversation is known

For all of them the same replicas are eligible: ready, not draining, not the one to avoid, and with a breaker that lets
them be asked; unless so few may be asked that the whole load would be thrown at them, or at none: below a share of
`PANIC_SHARE`, all ready ones are eligible (Envoy's panic threshold, but lower: an engine queues a few times the load it
can run, while a request to one that fails is lost). A pool of one is never closed off by its breaker.

Of a large group a window of `WINDOW` replicas is looked at, further on each time: the least busy of sixteen is nearly
the least busy of all (Mitzenmacher, The Power of Two Choices, 2001), at a cost that does not grow.

"Much busier" is consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016): a replica with more
than `BOUND` times the mean is passed by, and the next on the ring is asked, the same for all requests of that key. The
mean is exact in a small group and that of a window in a large one. The bound is never below `FLOOR_TOKENS`, a few
requests' worth: among idle replicas one request is already far above the mean, yet an engine takes a few more into its
batch at little cost, while computing a long prompt again elsewhere costs seconds.

A choice says why it was made, and who was passed by and why; the latter costs something only where somebody was:

    only                none other serves the model, or none other of its version
    round_robin         the next in turn
    least_outstanding   the least busy
    prefix              the conversation's own
    spill               the next on the ring: the conversation's own cannot be asked, or is too busy
    panic               by the rule, but breakers are disregarded, for too few may be asked
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, Generic, Literal, Protocol, TypeVar

from forebay.policy.affinity import Affinity
from forebay.policy.breaker import Breaker
from forebay.policy.canary import in_order, seed_of
from forebay.policy.ring import Ring
from forebay.refusals import EngineUnavailable

PANIC_SHARE = 0.25
WINDOW = 16
BOUND = 1.25
FLOOR_TOKENS = 4096
STEPS = 64  # on the ring, before affinity is given up
DEFAULT_GROUP = "default"
DEFAULT_WEIGHT = 100

Strategy = Literal["round_robin", "least_outstanding", "prefix"]
Why = Literal["only", "round_robin", "least_outstanding", "prefix", "spill", "panic"]
WhyNot = Literal["has just failed", "not ready", "draining", "breaker open", "too busy"]
PassedBy = tuple[tuple[str, WhyNot], ...]  # names of replicas


class Candidate(Protocol):
    """What routing needs to know of a replica; `load` is in tokens."""

    @property
    def name(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def load(self) -> int: ...
    @property
    def breaker(self) -> Breaker: ...


C = TypeVar("C", bound=Candidate)
Choice = tuple[C, Why, PassedBy]


class Group(Generic[C]):
    """Replicas that are alike, and whose turn it is among them; the ring is made when it is first needed."""

    __slots__ = ("_ring", "name", "replicas", "seed", "turn", "weight")

    def __init__(self, replicas: list[C], name: str = DEFAULT_GROUP, weight: int = DEFAULT_WEIGHT) -> None:
        self.replicas = replicas
        self.name = name
        self.weight = weight
        self.seed = seed_of(name)
        self.turn = 0
        self._ring: Ring | None = None

    def __repr__(self) -> str:
        return f"<Group {self.name} of {len(self.replicas)}, weight {self.weight}>"

    @property
    def ring(self) -> Ring:
        if self._ring is None:
            self._ring = Ring([replica.name for replica in self.replicas])
        return self._ring

    def window(self) -> list[C]:
        """The replicas to look at now, beginning with the one whose turn it is; the next window begins behind them."""
        start, size = self.turn, len(self.replicas)
        end = start + min(size, WINDOW)
        self.turn = end % size
        return self.replicas[start:end] if end <= size else self.replicas[start:] + self.replicas[: end - size]


class Routing:
    """Chooses in one way."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._choose = _CHOOSERS[strategy]

    def __repr__(self) -> str:
        return f"<Routing {self._strategy}>"

    def wants_affinity(self, groups: Sequence[Group[Any]]) -> bool:
        """Whether it matters which conversation a request belongs to."""
        if len(groups) == 1:
            return self._strategy == "prefix" and len(groups[0].replicas) > 1
        return len(groups) > 1

    def choose(
        self, groups: Sequence[Group[C]], now: float, affinity: Affinity | None = None, avoid: C | None = None
    ) -> Choice[C]:
        """Choose a replica, never `avoid`. Raises `EngineUnavailable`."""
        if len(groups) == 1 and len(alike := groups[0].replicas) == 1 and _is_up(only := alike[0], avoid):
            return only, "only", ()  # the usual case: there is nothing to choose
        conversation = affinity.number if affinity is not None and affinity.conversation else None
        if len(groups) > 1:
            groups = _serving_first(in_order(groups, affinity.number if affinity is not None else 0), now, avoid)
        for group in groups:
            chosen: Choice[C] | None = self._choose(group, now, conversation, avoid)
            if chosen is not None:
                return chosen
        raise EngineUnavailable(
            "No engine is ready for this model: it is starting, restarting or stopped. Try again shortly.",
            retry_after_s=5,
        )


def _serving_first(groups: list[Group[C]], now: float, avoid: C | None) -> list[Group[C]]:
    """The groups in their order, but those none of whose replicas may be asked behind the others."""
    for at, group in enumerate(groups):
        turn = group.turn
        if any(_is_up(replica, avoid) and replica.breaker.may_ask(now) for replica in group.window()):
            group.turn = turn
            return groups if at == 0 else [group, *groups[:at], *groups[at + 1 :]]
    return groups


def passed_by(replicas: Iterable[Candidate], now: float, avoid: Candidate | None) -> PassedBy:
    """Those that may not be asked, and why; at most a window of them."""
    told = ((replica.name, _why_not(replica, now, avoid)) for replica in replicas)
    return tuple(islice(((name, why) for name, why in told if why is not None), WINDOW))


def round_robin(group: Group[C], now: float, conversation: int | None, avoid: C | None) -> Choice[C] | None:
    """The next in turn."""
    return _in_turn(group, now, avoid, itemgetter(0), "round_robin")


def least_outstanding(group: Group[C], now: float, conversation: int | None, avoid: C | None) -> Choice[C] | None:
    """The least busy."""
    return _in_turn(group, now, avoid, _least_busy, "least_outstanding")


def prefix(group: Group[C], now: float, conversation: int | None, avoid: C | None) -> Choice[C] | None:
    """The conversation's own, or the next on the ring that is eligible and not over its bound."""
    if conversation is not None:
        seen, panic = _eligible(group.window(), now, avoid)
        bound = max(BOUND * sum([replica.load for replica in seen]) / max(len(seen), 1), FLOOR_TOKENS)
        first: C | None = None
        for index in group.ring.walk(conversation, STEPS):
            replica = group.replicas[index]
            first = first or replica
            if replica.load <= bound and _is_up(replica, avoid) and (panic or replica.breaker.may_ask(now)):
                return (replica, "prefix", ()) if replica is first else (replica, "spill", _spilt(first, now, avoid))
    return least_outstanding(group, now, conversation, avoid)


Chooser = Callable[[Group[Any], float, int | None, Any], Any]
_CHOOSERS: dict[Strategy, Chooser] = {
    "round_robin": round_robin,
    "least_outstanding": least_outstanding,
    "prefix": prefix,
}


def _in_turn(group: Group[C], now: float, avoid: C | None, pick: Callable[[list[C]], C], rule: Why) -> Choice[C] | None:
    """Pick one of the first window that has any eligible, and go on behind it next time."""
    for _ in range(0, len(group.replicas), WINDOW):
        window = group.window()
        eligible, panic = _eligible(window, now, avoid)
        if eligible:
            chosen = pick(eligible)
            group.turn = (group.turn - len(window) + window.index(chosen) + 1) % len(group.replicas)
            if len(eligible) == len(window):
                return chosen, rule if len(window) > 1 else "only", ()
            return chosen, "panic" if panic else rule, passed_by(window, now, avoid)
    return None


def _spilt(own: Candidate, now: float, avoid: Candidate | None) -> PassedBy:
    return ((own.name, _why_not(own, now, avoid) or "too busy"),)


def _least_busy(replicas: list[C]) -> C:
    return min(replicas, key=attrgetter("load"))


def _eligible(window: Sequence[C], now: float, avoid: C | None) -> tuple[list[C], bool]:
    """Those of a window that may be asked, and whether breakers are disregarded (panic)."""
    up = [replica for replica in window if _is_up(replica, avoid)]
    allowed = [replica for replica in up if replica.breaker.may_ask(now)]
    panic = len(allowed) < PANIC_SHARE * len(up)
    return (up, True) if panic else (allowed, False)


def _is_up(replica: Candidate, avoid: Candidate | None) -> bool:
    return replica.ready and not replica.draining and replica is not avoid


def _why_not(replica: Candidate, now: float, avoid: Candidate | None) -> WhyNot | None:
    if replica is avoid:
        return "has just failed"
    if not replica.ready:
        return "not ready"
    if replica.draining:
        return "draining"
    return None if replica.breaker.may_ask(now) else "breaker open"
