"""The rings of recent requests: what stays, what goes, and that they are bounded."""

import tracemalloc
from itertools import count
from typing import Any, cast

from forebay.gateway.exchange import Exchange, Head
from forebay.gateway.routes import find_route
from forebay.policy.auth import Principal
from forebay.telemetry.recent import FEWEST_OF_A_KIND, MOST_STEPS, USUAL_A_SECOND, Recent, kind_of
from forebay.telemetry.recorder import AccessLine
from forebay.telemetry.story import told

ROUTE = find_route(b"POST", b"/v1/chat/completions")
_numbers = count()


def keep(recent: Recent, request_id: str = "", steps: int = 1, **fields: Any) -> str:
    """Put a request into the rings, as the recorder does; return its id."""
    assert ROUTE is not None
    number = next(_numbers)
    usual: dict[str, Any] = {"status": 200, "outcome": "answered", "duration_ms": 5.0, "attempts": 1}
    line = AccessLine(
        time=float(number),
        level="info",
        message="request",
        request_id=request_id or f"{number:032x}",
        key_id="k",
        endpoint="chat_completions",
        **{"tenant": "t", **usual, **fields},
    )
    exchange = Exchange(cast(Any, None), Head(ROUTE, {}, http11=True), ROUTE, {}, 1.0)
    exchange.principal = Principal("t", "k")
    exchange.steps = [(1.0 + n, "attempt", f"engine-{n}", "only", ()) for n in range(steps)]
    late_ms = line.duration_ms if line.ttft_ms is None else line.ttft_ms
    well = line.outcome == "answered" and line.attempts < 2 and late_ms < recent.slow_s * 1e3
    recent.keep(line, exchange, None if well else kind_of(cast(Any, line.outcome), line.status, line.attempts))
    return line.request_id


REFUSED = {"status": 429, "outcome": "refused", "attempts": 0}
UNAVAILABLE = {"status": 503, "outcome": "failed", "attempts": 0}
FAILED = {"status": 503, "outcome": "failed", "attempts": 2}
CUT = {"status": 499, "outcome": "cancelled"}
TAKEN_OVER = {"attempts": 2, "takeovers": 1}
SLOW = {"duration_ms": 12_000.0}


def test_the_latest_come_first_and_the_oldest_go() -> None:
    recent = Recent(3, 10.0)
    ids = [keep(recent) for _ in range(5)]
    assert [kept.line.request_id for kept in recent] == ids[:1:-1]
    assert recent.is_full
    assert recent.since == next(iter(recent.named(ids[2]))).line.time


def test_each_kind_is_told_from_the_others() -> None:
    recent = Recent(100, 10.0)
    kinds = {
        "refused": REFUSED,
        "unavailable": UNAVAILABLE,
        "failed": FAILED,
        "cut": CUT,
        "taken_over": TAKEN_OVER,
        "slow": SLOW,
    }
    for kind, fields in kinds.items():
        assert recent.named(keep(recent, **fields))[0].kind == kind
    assert recent.named(keep(recent))[0].kind is None
    assert recent.named(keep(recent, status=500, outcome="failed", attempts=0))[0].kind == "failed", "a bug of ours"
    assert recent.named(keep(recent, stream=True, duration_ms=60_000.0, ttft_ms=200.0))[0].kind is None
    assert recent.named(keep(recent, stream=True, duration_ms=60_000.0, ttft_ms=10_000.0))[0].kind == "slow"


def test_a_flood_of_one_kind_leaves_the_others() -> None:
    recent = Recent(200, 10.0)
    rare = [keep(recent, **fields) for fields in (UNAVAILABLE, FAILED, CUT, TAKEN_OVER, SLOW)]
    for _ in range(1000):
        keep(recent, **REFUSED)
        keep(recent)
    assert all(recent.named(name) for name in rare)
    assert [kept.line.request_id for kept in recent.latest(10, ("failed",))] == [rare[1]]
    times = [kept.line.time for kept in recent]
    assert times == sorted(times, reverse=True)
    assert len(times) == len(set(times)), "none is told twice"


def test_only_one_tenants_are_told_where_that_is_asked() -> None:
    recent = Recent(10, 10.0)
    keep(recent, tenant="acme")
    keep(recent, tenant="other")
    assert [kept.line.tenant for kept in recent.latest(10, tenant="acme")] == ["acme"]


def test_a_story_of_very_many_steps_is_cut_to_its_last_ones() -> None:
    recent = Recent(10, 10.0)
    steps = told(recent.named(keep(recent, steps=1000))[0])["steps"]
    assert len(steps) == MOST_STEPS + 1
    assert steps[-2]["detail"]["replica"] == "engine-999"


def test_memory_is_bounded_under_a_hundred_thousand_requests_of_every_kind_with_hostile_ids() -> None:
    recent = Recent(2000, 10.0)
    kinds = ({}, REFUSED, UNAVAILABLE, FAILED, CUT, TAKEN_OVER, SLOW)
    tracemalloc.start()
    try:
        for number in range(100_000):
            keep(recent, f"{number:0>128}", **kinds[number % len(kinds)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(list(recent)) == 2000, "the latest 2,000 have the latest 200 of every kind among them"
    assert held < 8_000_000


def test_a_small_ring_keeps_a_few_of_each_kind() -> None:
    recent = Recent(50, 10.0)
    failed = [keep(recent, **FAILED) for _ in range(30)]
    for _ in range(100):
        keep(recent)
    assert [kept.line.request_id for kept in recent.latest(100, ("failed",))] == failed[: -FEWEST_OF_A_KIND - 1 : -1]


def test_of_those_that_go_well_so_many_a_second_are_kept() -> None:
    recent = Recent(2000, 10.0)
    taken = [recent.has_room(7.0 + number / 1000) for number in range(999)]
    assert taken == [True] * USUAL_A_SECOND + [False] * (999 - USUAL_A_SECOND)
    assert recent.has_room(8.0)
    assert recent.left_out == 999 - USUAL_A_SECOND
