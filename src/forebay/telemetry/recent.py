"""The stories of recent requests, for who asks why: the latest of all and, so that a flood does not wash them away,
the latest of each kind that went wrong.

    refused      wrong, not allowed, or beyond a limit: an answer of 4xx
    unavailable  refused because nothing could take it: 5xx, and no engine was asked
    failed       an engine was asked, and there was no answer, or not all of one
    cut          the caller left
    taken_over   answered, but by another attempt than the first
    slow         answered, but its first token (the whole answer, where it is no stream) was late

A kind's ring is a tenth of the whole, so a flood of one kind leaves the others alone. What is kept is bounded in bytes,
too: an access line's fields, steps that are few and short, and figures. There is no index: a request costs an append
here, and who asks pays for the search.

Of those that went well only `USUAL_A_SECOND` are kept in any second. With more of them the ring would go by before
anybody could ask, and memory that is written once and dropped a moment later costs more than all else here: the
processor's caches are of its size.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from math import floor
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from forebay.policy.verdict import Outcome

if TYPE_CHECKING:
    from forebay.gateway.exchange import Exchange, Step
    from forebay.telemetry.recorder import AccessLine
    from forebay.wire.timings import Timings

Kind = Literal["refused", "unavailable", "failed", "cut", "taken_over", "slow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ERRORS: tuple[Kind, ...] = ("refused", "unavailable", "failed")
MOST_STEPS = 64
FEWEST_OF_A_KIND = 20
USUAL_A_SECOND = 200
_SHARE_OF_A_KIND = 10
_BUG = 500
_OURS = re.compile(r"[0-9a-f]{32}")


class Kept(msgspec.Struct, eq=False, gc=False):  # nothing in it can be part of a cycle
    """What is kept of a request. Times are monotonic seconds, 0 where the moment did not come."""

    line: "AccessLine"
    kind: Kind | None
    started_at: float
    begun_at: float
    first_token_at: float
    steps: "tuple[Step, ...]"
    facts: Mapping[str, Any] | None
    limits: bytes  # header lines of limits
    longest_gap_s: float
    longest_gap_at: float
    paused_s: float
    events: int
    timings: "Timings | None"

    @classmethod
    def of(cls, line: "AccessLine", exchange: "Exchange", kind: Kind | None) -> "Kept":
        steps, limited = exchange.steps, exchange.limited
        return cls(  # in the fields' order, which is quicker
            line,
            kind,
            exchange.started_at,
            exchange.begun_at,
            exchange.first_token_at,
            tuple(steps) if len(steps) <= MOST_STEPS else tuple(steps[-MOST_STEPS:]),
            exchange.facts,
            limited.lines if limited is not None else b"",
            exchange.longest_gap_s,
            exchange.longest_gap_at,
            exchange.paused_s,
            exchange.events_out,
            exchange.timings,
        )

    def is_called(self, name: str) -> bool:
        """Whether a request id, an engine's id, an answer's id or a trace's id is this one's."""
        found = _OURS.search(name)
        return self.is_named(name, found[0] if found is not None else "")

    def is_named(self, name: str, ours: str) -> bool:
        """The same, where it is known what part of the name we made ourselves, if any."""
        line = self.line
        return line.request_id == name or (
            ours != "" and ours in (line.request_id, line.engine_request_id, line.trace_id)
        )


class Recent:
    """The rings. `slow_s` is what makes a request slow, seconds."""

    def __init__(self, most: int, slow_s: float) -> None:
        self.slow_s = slow_s
        self._all: deque[Kept] = deque(maxlen=most)
        of_a_kind = min(max(most // _SHARE_OF_A_KIND, FEWEST_OF_A_KIND), most)
        self._of_kind: dict[Kind, deque[Kept]] = {kind: deque(maxlen=of_a_kind) for kind in KINDS}
        self._next_second = 0.0
        self._room = USUAL_A_SECOND  # in this second
        self.left_out = 0

    def __repr__(self) -> str:
        kept = {kind: len(ring) for kind, ring in self._of_kind.items() if ring}
        return f"<Recent {len(self._all)} of {self._all.maxlen} {kept}>"

    def __iter__(self) -> Iterator[Kept]:
        """All that are kept, the latest first."""
        latest = list(reversed(self._all))
        yield from latest
        seen = {id(one) for one in latest}
        older = (one for ring in self._of_kind.values() for one in ring if id(one) not in seen)
        yield from sorted(older, key=_ended, reverse=True)

    @property
    def since(self) -> float:
        """How far back this goes, wall-clock seconds; 0 where none has been kept yet."""
        return self._all[0].line.time if self._all else 0.0

    @property
    def is_full(self) -> bool:
        """Whether an older request may have been let go."""
        return len(self._all) == self._all.maxlen

    def has_room(self, now: float) -> bool:
        """Whether a request that went well is to be kept, and is the next of this second's."""
        if now >= self._next_second:
            self._next_second, self._room = floor(now) + 1.0, USUAL_A_SECOND
        if not self._room:
            self.left_out += 1
            return False
        self._room -= 1
        return True

    def keep(self, line: "AccessLine", exchange: "Exchange", kind: Kind | None) -> None:
        """Keep a request that is over."""
        kept = Kept.of(line, exchange, kind)
        self._all.append(kept)
        if kind is not None:
            self._of_kind[kind].append(kept)

    def latest(self, most: int, kinds: tuple[Kind, ...] = (), tenant: str | None = None) -> list[Kept]:
        """The latest, of some kinds or of all, the latest first."""
        found = (
            one for one in self if (not kinds or one.kind in kinds) and (tenant is None or one.line.tenant == tenant)
        )
        return list(islice(found, most))

    def named(self, name: str) -> list[Kept]:
        """Those with a request id, an engine's id, an answer's id or a trace's id, the latest first: callers may give
        an id twice."""
        ours = _OURS.search(name)
        return [one for one in self if one.is_named(name, ours[0] if ours is not None else "")]


def kind_of(outcome: Outcome, status: int, attempts: int) -> Kind:
    """What was wrong with a request that did not go well."""
    if outcome == "answered":
        return "taken_over" if attempts > 1 else "slow"
    if outcome == "cancelled":
        return "cut"
    if outcome == "refused":
        return "refused"
    return "failed" if attempts or status == _BUG else "unavailable"


def _ended(kept: Kept) -> float:
    return kept.line.time
