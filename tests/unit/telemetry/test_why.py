"""The verdict on each kind of story, as a table."""

from typing import Any

import pytest

from forebay.telemetry.why import seconds, verdict

FACTS: dict[str, Any] = {
    "request_id": "r",
    "tenant": "acme",
    "key_id": "key-1",
    "client": "192.0.2.1",
    "status": 200,
    "outcome": "answered",
    "stream": False,
    "duration_ms": 400.0,
    "queued_ms": None,
    "ttft_ms": None,
    "error": "",
    "replica": "engine-0",
    "attempts": 1,
    "takeovers": 0,
    "cache": "",
    "prompt_tokens": None,
    "completion_tokens": None,
    "cached_tokens": None,
    "arrived_ms": 0.0,
    "events": 0,
    "longest_gap_ms": 0.0,
    "paused_ms": 0.0,
    "engine_timings": None,
}
QUEUED = {"ahead": 5, "waits_for": "others_first", "running": 64, "places": 64, "waiting": 4, "of_tenant": 0}
FULL = {"running": 64, "places": 64, "waiting": 100, "most_waiting": 100, "wait_s": 4.0}
LIMIT = {"limit": "tokens", "scope": "tenant", "used": 990, "of": 1000, "left_s": 20.0}
Step = tuple[float, str, dict[str, Any]]


def sent(at: float, replica: str = "engine-0") -> Step:
    return at, "attempt", {"replica": replica, "why": "least_outstanding", "passed_by": {}}


def broke(at: float, kind: str) -> Step:
    return at, "failed", {"kind": kind, "detail": "whatever"}


def ended(what: str, at: float, status: int = 200, **detail: Any) -> Step:
    return at, what, {"status": status, **detail}


def story(*steps: Step, **facts: Any) -> dict[str, Any]:
    told = [{"at_ms": at, "what": what, "detail": detail} for at, what, detail in steps]
    return {**FACTS, "duration_ms": steps[-1][0], "steps": told, **facts}


def refused(status: int, code: str, **facts: Any) -> dict[str, Any]:
    return story(ended("refused", 1.0, status, error=code, **facts), attempts=0, replica="", outcome="refused")


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a limit a minute": (
        refused(429, "rate_limit_exceeded", **LIMIT),
        "refused: tokens a minute of tenant acme used up (990 of 1000), 20.0 s left",
    ),
    "a limit of the key": (
        refused(429, "rate_limit_exceeded", **{**LIMIT, "limit": "requests", "scope": "key"}),
        "refused: requests a minute of key key-1 used up (990 of 1000), 20.0 s left",
    ),
    "a limit of all": (
        refused(429, "rate_limit_exceeded", **{**LIMIT, "scope": "all", "left_s": 0.5}),
        "refused: tokens a minute of all callers used up (990 of 1000), 500 ms left",
    ),
    "a limit of an address": (
        refused(429, "rate_limit_exceeded", **{**LIMIT, "scope": "address"}),
        "refused: tokens a minute of address 192.0.2.1 used up (990 of 1000), 20.0 s left",
    ),
    "requests at once": (
        refused(429, "rate_limit_exceeded", **{**LIMIT, "limit": "concurrency", "used": 4, "of": 4}),
        "refused: requests at once of tenant acme used up (4 of 4)",
    ),
    "a budget": (
        refused(429, "insufficient_quota", **{**LIMIT, "limit": "month"}),
        "refused: tokens a month of tenant acme used up (990 of 1000), until the next month (UTC)",
    ),
    "shared requests at once": (
        refused(429, "rate_limit_exceeded", **{**LIMIT, "limit": "concurrency", "used": None, "of": 4}),
        "refused: requests at once of tenant acme used up (all 4)",
    ),
    "shared counts that are away": (
        refused(429, "rate_limit_exceeded", **LIMIT, gateways=3),
        "refused: tokens a minute of tenant acme used up (990 of 1000, of which this gateway has its share alone, "
        "1 of 3), 20.0 s left",
    ),
    "a full queue": (
        refused(503, "server_is_overloaded", reason="full", **FULL),
        "refused: the queue is full: 100 of 100 wait, 64 of 64 running",
    ),
    "a hopeless wait": (
        refused(503, "server_is_overloaded", reason="hopeless", **FULL),
        "refused: it would have waited longer than it may: 100 wait, 64 of 64 running",
    ),
    "a queue that stands": (
        refused(503, "server_is_overloaded", reason="standing", **FULL),
        "refused: more requests came than can be served, so the queue is kept short (queue_target_s): 100 wait, "
        "64 of 64 running",
    ),
    "its time in line is over": (
        story(
            (2.0, "queued", QUEUED),
            ended("refused", 30_002.0, 503, error="server_is_overloaded", reason="deadline", **FULL),
            attempts=0,
        ),
        "refused: waited 30.0 s, then its turn did not come in the time it may wait: 100 still wait, 64 of 64 running",
    ),
    "too many under way": (
        refused(503, "server_is_overloaded", reason="too_many", running=9, places=9),
        "refused: 9 requests under way, as many as this gateway takes (max_active_requests)",
    ),
    "no engine": (
        story(
            (1.0, "unrouted", {"passed_by": {"engine-0": "not ready", "engine-1": "breaker open"}}),
            ended("refused", 1.0, 503, error="engine_unavailable"),
            attempts=0,
        ),
        "refused: no engine could be asked: engine-0 not ready, engine-1 breaker open",
    ),
    "no engine for the model": (
        story((1.0, "unrouted", {"passed_by": {}}), ended("refused", 1.0, 503, error="engine_unavailable"), attempts=0),
        "refused: no engine could be asked: there is none for the model",
    ),
    "an unknown key": (
        refused(401, "invalid_api_key"),
        "refused: its key is missing, unknown or expired (401 invalid_api_key)",
    ),
    "what nobody can do": (
        refused(400, "invalid_value"),
        "refused: what it asked cannot be done (400 invalid_value)",
    ),
    "the engine's no": (
        story(sent(1.0), ended("refused", 3.0, 400, error="context_length_exceeded")),
        "refused: engine-0 found the request wrong (400 context_length_exceeded)",
    ),
    "stopping": (
        refused(503, "draining"),
        "refused: this gateway was stopping (503 draining)",
    ),
    "all attempts failed": (
        story(
            *(sent(1.0), broke(2101.0, "closed"), sent(2102.0, "engine-1"), broke(4102.0, "timeout")),
            ended("gave_up", 4102.0, 504, error="upstream_timeout"),
            attempts=2,
        ),
        "failed: engine-0 died after 2.1 s; engine-1 did not answer in time after 2.0 s",
    ),
    "one failed and no other could be asked": (
        story(
            *(sent(1.0), broke(2101.0, "connect")),
            (2101.0, "unrouted", {"passed_by": {"engine-0": "has just failed"}}),
            ended("gave_up", 2101.0, 503, error="engine_unavailable"),
        ),
        "failed: engine-0 could not be reached after 2.1 s; no other could be asked: engine-0 has just failed",
    ),
    "no more retries to spend": (
        story(
            *(sent(1.0), broke(2.0, "engine_error")),
            ended("gave_up", 2.0, 503, error="engine_unavailable", reason="retry_budget"),
        ),
        "failed: engine-0 failed on it (its log says why) after 1.0 ms; "
        "too many attempts fail just now to pay for another one",
    ),
    "a stream that broke off": (
        story(
            *(sent(1.0), (20.0, "first_token", {}), broke(1001.0, "stalled")),
            ended("gave_up", 1001.0, 200, error="upstream_timeout"),
            events=41,
            stream=True,
        ),
        "failed: engine-0 stalled after 1.0 s; the stream ended with an error at event 41",
    ),
    "our stop midway": (
        story(sent(1.0), ended("gave_up", 9.0, 503, error="draining")),
        "failed: this gateway was stopping",
    ),
    "gone while in line": (
        story((1.0, "queued", QUEUED), ended("left", 3201.0, 499), outcome="cancelled", attempts=0),
        "the caller left after 3.2 s, waiting for a place: 64 of 64 running, place 5 in line, others were before it",
    ),
    "gone before the first token": (
        story(sent(1.0), ended("left", 5001.0, 499), outcome="cancelled", stream=True),
        "the caller left after 5.0 s, before the first token of engine-0, asked 5.0 s before",
    ),
    "gone midway": (
        story(sent(1.0), (50.0, "first_token", {}), ended("left", 900.0, 499), outcome="cancelled", events=12),
        "the caller left after 900 ms, at event 12 of the stream",
    ),
    "gone, having stopped reading": (
        story(
            *(sent(1.0), (50.0, "first_token", {}), ended("left", 60_000.0, 499)),
            outcome="cancelled",
            events=12,
            paused_ms=59_000.0,
        ),
        "the caller left after 60.0 s, at event 12 of the stream, having read nothing for 59.0 s",
    ),
    "gone while nothing was there to go on": (
        story(sent(1.0), broke(2.0, "closed"), ended("left", 5002.0, 499), outcome="cancelled"),
        "the caller left after 5.0 s, while no engine was there to go on: engine-0 died after 1.0 ms",
    ),
    "gone before anything": (
        story(ended("left", 5.0, 499), outcome="cancelled", attempts=0),
        "the caller left after 5.0 ms, before anything was decided",
    ),
    "not over": (
        story(sent(1.0), ended("running", 41_000.0), outcome="running", stream=True),
        "under way for 41.0 s, before the first token of engine-0, asked 41.0 s before",
    ),
    "taken over midway": (
        story(
            *(sent(1.0), (50.0, "first_token", {}), broke(2101.0, "closed"), sent(2102.0, "engine-1")),
            *((2200.0, "resumed", {"events": 41}), ended("answered", 4000.0)),
            attempts=2,
            takeovers=1,
            stream=True,
        ),
        "engine-0 died after 2.1 s; engine-1 went on at event 41",
    ),
    "taken over once an engine was there again": (
        story(
            *(sent(1.0), broke(2101.0, "stalled"), sent(14_101.0), ended("answered", 15_000.0)),
            attempts=2,
            takeovers=1,
        ),
        "engine-0 stalled after 2.1 s; engine-0 answered 12.0 s later",
    ),
    "a stale connection is no attempt": (
        story(sent(1.0), broke(2.0, "stale"), sent(2.0), ended("answered", 400.0)),
        "answered by engine-0 in 400 ms: nothing held it up",
    ),
    "from the cache": (
        story((1.0, "cache", {"state": "hit"}), ended("answered", 1.5), cache="hit", attempts=0),
        "answered from the cache in 1.5 ms",
    ),
    "from another's answer": (
        story(
            *((1.0, "cache", {"state": "waits"}), (3001.0, "cache", {"state": "hit"}), ended("answered", 3002.0)),
            cache="hit",
            attempts=0,
        ),
        "waited 3.0 s for the answer to the same request, under way",
    ),
    "quick": (
        story(sent(1.0), ended("answered", 400.0)),
        "answered by engine-0 in 400 ms: nothing held it up",
    ),
    "a long wait for a place": (
        story(
            *((1.0, "queued", {**QUEUED, "ahead": 1, "waits_for": "engines_full"}), (3201.0, "admitted", {})),
            *(sent(3201.0), ended("answered", 3600.0)),
        ),
        "answered by engine-0 in 3.6 s: waited 3.2 s for a place: 64 of 64 running",
    ),
    "behind prompts to read": (
        story(
            *((1.0, "queued", {**QUEUED, "ahead": 1, "waits_for": "engines_reading"}), (3201.0, "admitted", {})),
            *(sent(3201.0), ended("answered", 3600.0)),
        ),
        "answered by engine-0 in 3.6 s: waited 3.2 s for a place: 64 of 64 running, "
        "the engines had enough prompts to read",
    ),
    "behind one's own": (
        story(
            *((1.0, "queued", {**QUEUED, "waits_for": "own_requests_first"}), (3201.0, "admitted", {})),
            *(sent(3201.0), ended("answered", 3600.0)),
        ),
        "answered by engine-0 in 3.6 s: waited 3.2 s for a place: 64 of 64 running, place 5 in line, "
        "its tenant's own requests came first",
    ),
    "a slow upload": (
        story((5000.0, "arrived", {}), sent(5001.0), ended("answered", 5400.0), arrived_ms=5000.0),
        "answered by engine-0 in 5.4 s: its body took 5.0 s to arrive",
    ),
    "a slow look-up": (
        story((3000.0, "identified", {}), sent(3000.0), ended("answered", 3400.0)),
        "answered by engine-0 in 3.4 s: waited 3.0 s for its key or its limits",
    ),
    "a long answer": (
        story(
            *(sent(1.0), (300.0, "first_token", {}), ended("answered", 20_300.0)), stream=True, completion_tokens=900
        ),
        "answered by engine-0 in 20.3 s: generating 900 tokens took 20.0 s",
    ),
    "a long prompt": (
        story(
            *(sent(1.0), (4001.0, "first_token", {}), ended("answered", 5001.0)),
            stream=True,
            prompt_tokens=30_000,
            cached_tokens=16,
        ),
        "answered by engine-0 in 5.0 s: first token after 4.0 s (prompt of 30000 tokens, 16 of them known)",
    ),
    "a queue in the engine": (
        story(
            *(sent(1.0), (4001.0, "first_token", {}), ended("answered", 4501.0)),
            stream=True,
            engine_timings={"queue_time_ms": 3500.0},
        ),
        "answered by engine-0 in 4.5 s: first token after 4.0 s, 3.5 s of it in the engine's own queue",
    ),
    "a whole answer": (
        story(sent(1.0), ended("answered", 4001.0), completion_tokens=80, prompt_tokens=9),
        "answered by engine-0 in 4.0 s: the engine worked 4.0 s on 80 tokens (prompt of 9 tokens)",
    ),
    "a caller who reads slowly": (
        story(
            *(sent(1.0), (100.0, "first_token", {}), ended("answered", 9100.0)),
            stream=True,
            paused_ms=8000.0,
            longest_gap_ms=7000.0,
        ),
        "answered by engine-0 in 9.1 s: the caller did not read for 8.0 s",
    ),
    "a gap midway": (
        story(
            *(sent(1.0), (100.0, "first_token", {}), (6100.0, "gap", {"ms": 5000.0}), ended("answered", 8100.0)),
            stream=True,
            longest_gap_ms=5000.0,
        ),
        "answered by engine-0 in 8.1 s: nothing came for 5.0 s midway, generating the answer took 3.0 s",
    ),
    "a wait and a long answer": (
        story(
            *((1.0, "queued", {**QUEUED, "ahead": 1, "waits_for": "engines_full"}), (4001.0, "admitted", {})),
            *(sent(4001.0), (4100.0, "first_token", {}), ended("answered", 10_100.0)),
            stream=True,
        ),
        "answered by engine-0 in 10.1 s: generating the answer took 6.0 s, waited 4.0 s for a place: 64 of 64 running",
    ),
}


@pytest.mark.parametrize(("told", "sentence"), CASES.values(), ids=CASES)
def test_the_verdict_says_where_the_time_went_or_what_ended_it(told: dict[str, Any], sentence: str) -> None:
    assert verdict(told) == sentence


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0.04, "0.0 ms"), (9.94, "9.9 ms"), (10, "10 ms"), (999.4, "999 ms"), (999.6, "1.0 s"), (123_456, "123 s")],
)
def test_times_are_told_as_people_say_them(ms: float, text: str) -> None:
    assert seconds(ms) == text
