"""What was kept of a request → its story as it is told: the facts, and the steps in the order of their times. Pure.

The steps are those of the exchange (`gateway/exchange.py`) with names for their details, and those that its times tell
of: when it had arrived, its first token, the longest gap in its stream, its end (`answered`, `refused`, `gave_up`,
`left`, or `running` where it has not come). Times are milliseconds since its headers were in. Only names are told that
are given here, so that nothing else can come out.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from forebay.wire.headers import limits_told

if TYPE_CHECKING:
    from forebay.gateway.exchange import Step
    from forebay.telemetry.recent import Kept

FEWEST_MS = 1.0  # of what is worth a step
LONG_GAP_MS = 1000.0

_DETAILS: dict[str, tuple[str, ...]] = {
    "identified": (),
    "limits_known": (),
    "cache": ("state",),
    "queued": ("ahead", "waits_for", "running", "places", "waiting", "of_tenant", "wait_s"),
    "admitted": (),
    "attempt": ("replica", "why", "passed_by"),
    "failed": ("kind", "detail"),
    "unrouted": ("passed_by",),
    "resumed": ("events",),
}
_ENDS = {"answered": "answered", "refused": "refused", "failed": "gave_up", "cancelled": "left", "running": "running"}


@dataclass(frozen=True, slots=True)
class Told:
    """One step, as it is told."""

    at_ms: float
    what: str
    detail: dict[str, Any] = field(default_factory=dict)


def summary(kept: "Kept") -> dict[str, Any]:
    """A request on one line."""
    line = kept.line
    return {
        "request_id": line.request_id,
        "time": round(line.time - line.duration_ms / 1e3, 3),
        "kind": kept.kind,
        "endpoint": line.endpoint,
        "model": line.model,
        "tenant": line.tenant,
        "key_id": line.key_id,
        "client": line.client,
        "status": line.status,
        "outcome": line.outcome,
        "stream": line.stream,
        "duration_ms": line.duration_ms,
        "queued_ms": line.queued_ms,
        "ttft_ms": line.ttft_ms,
        "error": line.error,
        "replica": line.replica,
        "attempts": line.attempts,
        "takeovers": line.takeovers,
        "cache": line.cache,
        "prompt_tokens": line.prompt_tokens,
        "completion_tokens": line.completion_tokens,
        "cached_tokens": line.cached_tokens,
        "engine_request_id": line.engine_request_id or line.request_id,
        "trace_id": line.trace_id,
    }


def details(kept: "Kept") -> dict[str, Any]:
    """What a story has besides: figures that are no steps."""
    timings = kept.timings
    return {
        "arrived_ms": _ms(kept.begun_at - kept.started_at),
        "events": kept.events,
        "longest_gap_ms": _ms(kept.longest_gap_s),
        "paused_ms": _ms(kept.paused_s),
        "limits": limits_told(kept.limits),
        "engine_timings": {name: getattr(timings, name) for name in timings.__struct_fields__} if timings else None,
    }


def steps(kept: "Kept") -> list[Told]:
    """The steps, in the order of their times."""
    return [*sorted([*_of_exchange(kept), *_of_times(kept)], key=lambda told: told.at_ms), _end(kept)]


def told(kept: "Kept") -> dict[str, Any]:
    """The whole story, but for the verdict."""
    return summary(kept) | details(kept) | {"steps": [asdict(step) for step in steps(kept)]}


def _of_exchange(kept: "Kept") -> Iterator[Told]:
    for step in kept.steps:
        names = _DETAILS.get(step[1])
        if names is not None:
            detail = dict(zip(names, step[2:], strict=False))
            if "passed_by" in detail:
                detail["passed_by"] = dict(detail["passed_by"])
            yield Told(_since(kept, step), step[1], detail)


def _of_times(kept: "Kept") -> Iterator[Told]:
    arrived_ms = _ms(kept.begun_at - kept.started_at)
    if kept.begun_at and arrived_ms >= FEWEST_MS:
        yield Told(arrived_ms, "arrived")
    if kept.line.stream and kept.first_token_at:
        yield Told(_ms(kept.first_token_at - kept.started_at), "first_token")
    if (gap_ms := _ms(kept.longest_gap_s)) >= LONG_GAP_MS:
        yield Told(_ms(kept.longest_gap_at - kept.started_at), "gap", {"ms": gap_ms})


def _end(kept: "Kept") -> Told:
    line = kept.line
    detail: dict[str, Any] = {"status": line.status} if line.status else {}
    if line.error:
        detail["error"] = line.error
    if line.outcome in ("refused", "failed"):
        detail |= kept.facts or {}
    what = _ENDS[line.outcome]
    if what == "gave_up" and not line.attempts:
        what = "refused"  # by us, whatever its status
    return Told(line.duration_ms, what, detail)


def _since(kept: "Kept", step: "Step") -> float:
    return _ms(step[0] - kept.started_at)


def _ms(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1e3, 3)
