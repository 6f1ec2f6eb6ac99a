"""A request's story → the verdict: in one sentence, where its time went, or what ended it. Pure.

It goes through the story once for what decided the end:

1. it was refused: by which limit, for which queue, for want of which engine; or for what it asked
2. it failed: what became of each attempt
3. the caller left, or it is not over: during what
4. it was answered, but not by the first attempt: which engine died, which went on
5. it was answered from memory
6. it was answered: by whom, and what took the most time
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Story = Mapping[str, Any]
Step = Mapping[str, Any]

QUICK_MS = 1000.0  # what took less needs no explanation
WORTH_TELLING = 0.2  # of the whole time

_LIMITS = {
    "requests": "requests a minute",
    "tokens": "tokens a minute",
    "concurrency": "requests at once",
    "day": "tokens a day",
    "month": "tokens a month",
}
_REASONS = {
    "full": "the queue is full: {waiting} of {most_waiting} wait, {running} of {places} running",
    "hopeless": "it would have waited longer than it may: {waiting} wait, {running} of {places} running",
    "standing": "more requests came than can be served, so the queue is kept short (queue_target_s): {waiting} wait, "
    "{running} of {places} running",
    "deadline": "its turn did not come in the time it may wait: {waiting} still wait, {running} of {places} running",
    "gave_way": "the queue was full, and it gave way to a tenant with fewer waiting: {running} of {places} running",
    "too_many": "{running} requests under way, as many as this gateway takes (max_active_requests)",
    "connections": "{replica} has as many connections as it may (max_upstream_connections)",
    "descriptors": "this gateway had no file descriptor left for a connection to {replica}",
    "memory": "its body or answer was one too many to hold in memory (max_held_bytes)",
    "retry_budget": "too many attempts fail just now to pay for another one",
}
_CODES = {
    "invalid_api_key": "its key is missing, unknown or expired",
    "invalid_token": "its token is not valid",
    "missing_scope": "its key lacks the scope",
    "model_not_found": "there is no such model, or not for this key",
    "context_length_exceeded": "prompt and answer do not fit the model's context",
    "invalid_json": "its body is no JSON object",
    "request_too_large": "its body is too large",
    "unsupported_media_type": "its body is not sent as JSON",
    "draining": "this gateway was stopping",
    "internal_error": "a bug of Forebay's, which its log tells of under this id",
    "keys_unavailable": "the keys' database or key set could not be reached",
    "response_not_found": "there is no such stored response for this key",
}
_KINDS = {
    "connect": "could not be reached",
    "local": "could not be asked for want of file descriptors",
    "closed": "died",
    "invalid": "answered with what is no HTTP",
    "timeout": "did not answer in time",
    "stalled": "stalled",
    "engine_error": "failed on it (its log says why)",
    "engine_aborted": "gave it up midway",
    "engine_unavailable": "died",
    "server_is_overloaded": "was overloaded",
    "upstream_invalid_response": "gave no proper answer",
    "upstream_timeout": "took too long",
}
_WAITS = {
    "engines_full": "all places taken",
    "engines_reading": "the engines had enough prompts to read",
    "own_requests_first": "its tenant's own requests came first",
    "others_first": "others were before it",
}


def verdict(story: Story) -> str:
    """One sentence, without a full stop."""
    end = story["steps"][-1]
    match end["what"]:
        case "refused":
            return f"refused: {_refusal(story, end)}"
        case "gave_up":
            return _failed(story, end)
        case "left":
            return f"the caller left after {seconds(story['duration_ms'])}, {_during(story)}"
        case "running":
            return f"under way for {seconds(story['duration_ms'])}, {_during(story)}"
    attempts = _attempts(story)
    if any(failed is not None for _, failed, _ in attempts) and story["attempts"] > 1:
        return "; ".join([*_losses(attempts), _taken_over(story, attempts)])
    if story["cache"] == "hit":
        return _cached(story)
    return _answered(story)


# 1. Refused


def _refusal(story: Story, end: Step) -> str:
    detail = end["detail"]
    if "limit" in detail:
        return _limit(story, detail)
    if (reason := detail.get("reason")) in _REASONS:
        waited = f"waited {seconds(story['queued_ms'] or _waited_ms(story))}, then " if _waited_ms(story) else ""
        return waited + _REASONS[reason].format_map(detail)
    if (unrouted := _last(story, "unrouted")) is not None:
        return f"no engine could be asked: {_passed(unrouted) or 'there is none for the model'}"
    code = detail.get("error", "")
    if story["attempts"]:
        return f"{story['replica']} found the request wrong ({detail['status']} {code})"
    return f"{_CODES.get(code, 'what it asked cannot be done')} ({detail['status']} {code})"


def _limit(story: Story, detail: Mapping[str, Any]) -> str:
    kind, of = detail["limit"], detail["of"]
    whose = {"key": f"key {story['key_id']}", "tenant": f"tenant {story['tenant']}", "all": "all callers"}
    subject = whose.get(detail["scope"], f"{detail['scope']} {story['client']}")
    used = f"{detail['used']} of {of}" if detail["used"] is not None else f"all {of}"
    if "gateways" in detail:
        used += f", of which this gateway has its share alone, 1 of {detail['gateways']}"
    told = f"{_LIMITS[kind]} of {subject} used up ({used})"
    if kind == "concurrency":
        return told
    return f"{told}, until the next {kind} (UTC)" if kind in ("day", "month") else f"{told}, {_left(detail)}"


def _left(detail: Mapping[str, Any]) -> str:
    return f"{seconds(detail['left_s'] * 1e3)} left"


# 2. Failed, and 4. taken over

Attempt = tuple[Step, Step | None, Step | None]  # when it was sent, when it failed, when its stream went on


def _attempts(story: Story) -> list[Attempt]:
    found: list[Attempt] = []
    for step in story["steps"]:
        if step["what"] == "attempt":
            found.append((step, None, None))
        elif step["what"] == "failed" and found and found[-1][1] is None:
            if step["detail"]["kind"] == "stale":
                found.pop()  # no attempt: it is sent once more at once
            else:
                found[-1] = (found[-1][0], step, found[-1][2])
        elif step["what"] == "resumed" and found:
            found[-1] = (found[-1][0], found[-1][1], step)
    return found


def _losses(attempts: Sequence[Attempt]) -> list[str]:
    told = []
    for sent, failed, _ in attempts:
        if failed is not None:
            kind = failed["detail"]["kind"]
            took = seconds(failed["at_ms"] - sent["at_ms"])
            told.append(f"{sent['detail']['replica']} {_KINDS.get(kind, f'failed ({kind})')} after {took}")
    return told


def _taken_over(story: Story, attempts: Sequence[Attempt]) -> str:
    sent, _, resumed = attempts[-1]
    replica, failed = sent["detail"]["replica"], attempts[-2][1] if len(attempts) > 1 else None
    waited_ms = sent["at_ms"] - failed["at_ms"] if failed is not None else 0.0
    later = f" {seconds(waited_ms)} later" if waited_ms >= QUICK_MS else ""
    if resumed is None:
        return f"{replica} answered{later}"
    return f"{replica} went on{later} at event {resumed['detail']['events']}"


def _failed(story: Story, end: Step) -> str:
    told = "; ".join(_losses(_attempts(story)))
    detail = end["detail"]
    if (reason := detail.get("reason")) in _REASONS:
        last = _REASONS[reason].format_map(detail)
    elif (unrouted := _last(story, "unrouted")) is not None and (passed := _passed(unrouted)):
        last = f"no other could be asked: {passed}"
    elif detail.get("error") in ("draining", "internal_error"):
        last = _CODES[detail["error"]]
    else:
        last = "" if told else f"{story['replica']} {_KINDS.get(detail.get('error', ''), 'failed')}"
    sent = f"; the stream ended with an error at event {story['events']}" if story["events"] else ""
    return f"failed: {'; '.join(part for part in (told, last) if part)}{sent}"


# 3. The caller left, or it is under way


def _during(story: Story) -> str:
    before = [step for step in story["steps"][:-1] if step["what"] not in ("gap", "resumed")]
    last = before[-1] if before else None
    match last["what"] if last is not None else "":
        case "queued":
            assert last is not None
            return f"waiting for a place: {_place(last)}"
        case "first_token":
            paused = f", having read nothing for {seconds(story['paused_ms'])}" if _long(story["paused_ms"]) else ""
            return f"at event {story['events']} of the stream{paused}"
        case "cache":
            return "waiting for the answer to the same request, under way"
        case "attempt" if story["events"]:
            return f"at event {story['events']} of the stream"
        case "attempt":
            assert last is not None
            what = "first token" if story["stream"] else "answer"
            after = seconds(story["duration_ms"] - last["at_ms"])
            return f"before the {what} of {last['detail']['replica']}, asked {after} before"
        case "failed" | "unrouted":
            return f"while no engine was there to go on: {'; '.join(_losses(_attempts(story)))}"
    return "before anything was decided"


# 5. From memory, and 6. answered


def _cached(story: Story) -> str:
    waited = next((step for step in story["steps"] if step["detail"].get("state") == "waits"), None)
    if waited is None:
        return f"answered from the cache in {seconds(story['duration_ms'])}"
    hit = _last(story, "cache") or waited
    return f"waited {seconds(hit['at_ms'] - waited['at_ms'])} for the answer to the same request, under way"


def _answered(story: Story) -> str:
    """What took the most time, and what else took a good part of it."""
    whole = story["duration_ms"]
    by = f"answered by {story['replica']} in {seconds(whole)}"
    if whole < QUICK_MS:
        return f"{by}: nothing held it up"
    parts = sorted(((took, say) for took, say in _parts(story)), key=lambda part: -part[0])
    worth = [say(took) for took, say in parts if took >= max(WORTH_TELLING * whole, 1.0)]
    return f"{by}: {', '.join(worth[:3])}" if worth else by


Part = tuple[float, Callable[[float], str]]


def _parts(story: Story) -> list[Part]:
    """The parts of the time, milliseconds, none in another, and how each is told."""
    at = {step["what"]: step for step in reversed(story["steps"])}  # the first of each
    arrived = story["arrived_ms"]
    before = [step["at_ms"] for step in story["steps"] if step["what"] in ("identified", "limits_known")]
    parts: list[Part] = [
        (arrived, lambda took: f"its body took {seconds(took)} to arrive"),
        (max(before, default=arrived) - arrived, lambda took: f"waited {seconds(took)} for its key or its limits"),
        (_waited_ms(story), lambda took: f"waited {seconds(took)} for a place: {_place(at['queued'])}"),
    ]
    if (attempt := _last(story, "attempt")) is None:
        return parts
    if "first_token" not in at:
        return [*parts, (story["duration_ms"] - attempt["at_ms"], lambda took: _working(story, took))]
    first = at["first_token"]["at_ms"]
    paused = story["paused_ms"]
    gap = story["longest_gap_ms"] if not paused and story["longest_gap_ms"] >= QUICK_MS else 0.0
    rest = story["duration_ms"] - first - paused - gap
    return [
        *parts,
        (first - attempt["at_ms"], lambda took: _first_token(story, took)),
        (paused, lambda took: f"the caller did not read for {seconds(took)}"),
        (gap, lambda took: f"nothing came for {seconds(took)} midway"),
        (rest, lambda took: f"generating {_tokens(story)} took {seconds(took)}"),
    ]


def _first_token(story: Story, took: float) -> str:
    timings = story["engine_timings"] or {}
    told = f"first token after {seconds(took)}{_prompt(story)}"
    queued = timings.get("queue_time_ms") or 0.0
    return f"{told}, {seconds(queued)} of it in the engine's own queue" if _long(queued) else told


def _working(story: Story, took: float) -> str:
    timings = story["engine_timings"] or {}
    told = f"the engine worked {seconds(took)} on {_tokens(story)}{_prompt(story)}"
    queued = timings.get("queue_time_ms") or 0.0
    return f"{told}, {seconds(queued)} of it in its own queue" if _long(queued) else told


def _tokens(story: Story) -> str:
    count = story["completion_tokens"]
    return f"{count} tokens" if count else "the answer"


def _prompt(story: Story) -> str:
    prompt, cached = story["prompt_tokens"], story["cached_tokens"] or 0
    if not prompt:
        return ""
    return f" (prompt of {prompt} tokens, {cached} of them known)" if cached else f" (prompt of {prompt} tokens)"


# Words


def _waited_ms(story: Story) -> float:
    """How long it stood in line."""
    queued, admitted = _last(story, "queued"), _last(story, "admitted")
    if queued is None:
        return 0.0
    until = admitted["at_ms"] if admitted is not None else story["duration_ms"]
    return float(until - queued["at_ms"])


def _place(queued: Step) -> str:
    detail = queued["detail"]
    told = f"{detail['running']} of {detail['places']} running" if "places" in detail else ""
    ahead = f"place {detail['ahead']} in line"
    why = "" if detail["waits_for"] == "engines_full" else f", {_WAITS[detail['waits_for']]}"
    if detail["ahead"] > 1:
        return f"{told}, {ahead}{why}"
    return f"{told}{why}" if told and detail["waits_for"] == "engines_reading" else told or _WAITS[detail["waits_for"]]


def _passed(step: Step) -> str:
    return ", ".join(f"{name} {why}" for name, why in step["detail"]["passed_by"].items())


def _last(story: Story, what: str) -> Step | None:
    return next((step for step in reversed(story["steps"]) if step["what"] == what), None)


def _long(ms: float) -> bool:
    return ms >= QUICK_MS / 2


def seconds(ms: float) -> str:
    """A time as people say it."""
    if ms < 999.5:
        return f"{ms:.0f} ms" if ms >= 9.95 else f"{ms:.1f} ms"
    return f"{ms / 1e3:.1f} s" if ms < 99_950 else f"{ms / 1e3:.0f} s"
