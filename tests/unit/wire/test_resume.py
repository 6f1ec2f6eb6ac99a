"""How an answer that broke off is continued: what is asked next, and what the caller sees of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.wire.resume import Continuation, plan
from forebay.wire.transcript import PACK_AFTER_BYTES, Transcript

CHAT = b"/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 10}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def chunk(content: str, ids: list[int] | None = None, finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content, **delta}, "logprobs": None, "finish_reason": finish}
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return event({**frame, "choices": [{**choice, "token_ids": ids}]})


def opening(ids: list[int] | None) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    return event({"id": "chatcmpl-1", "created": 5, "model": "m", "choices": [choice], "prompt_token_ids": ids})


def transcript_of(*events: bytes) -> Transcript:
    transcript = Transcript(chat=True)
    for one in events:
        transcript.take(one)
    return transcript


def asked(*events: bytes, context: int | None = None, **fields: Any) -> dict[str, Any]:
    """The body of what is asked next."""
    step = plan(transcript_of(*events), CHAT, json.dumps({**BODY, **fields}).encode(), context)
    assert isinstance(step, Continuation)
    body: dict[str, Any] = json.loads(step.body)
    return body


def test_the_caller_sees_null_where_the_ids_were() -> None:
    block = opening([1, 2]) + chunk(' "token_ids":[3] ', [3]) + chunk("", [])
    seen = transcript_of().take(block)
    assert seen == block.replace(b"[1,2]", b"null").replace(b'"token_ids":[3]}', b'"token_ids":null}').replace(
        b"[]", b"null"
    )
    assert b'\\"token_ids\\":[3]' in seen, "what a model writes stays"


@pytest.mark.parametrize("ids", [[1, 2], None])
def test_what_goes_on_elsewhere_stays_its_tenants_own(ids: list[int] | None) -> None:
    body = asked(opening(ids), chunk("a", [10]), cache_salt="theirs")
    assert ("prompt" in body) == (ids is not None)
    assert body["cache_salt"] == "theirs"
    assert "cache_salt" not in asked(opening(ids), chunk("a", [10]))


def test_half_a_character_is_generated_again() -> None:
    body = asked(opening([1]), chunk("a", [10]), chunk("", [11]), chunk("é", [12]), chunk("", [13]))
    assert body["prompt"] == [1, 10, 11, 12]
    assert body["max_tokens"] == 7


def test_where_nothing_bounds_the_answer_the_context_does() -> None:
    assert asked(opening([1, 2]), chunk("a", [10]), context=20, max_tokens=None)["max_tokens"] == 17


def test_without_any_bound_text_is_what_it_goes_on_from() -> None:
    body = asked(opening([1, 2]), chunk("a", [10]), max_tokens=None)
    assert body["messages"][-1] == {"role": "assistant", "content": "a"}


def test_without_ids_text_is_what_it_goes_on_from() -> None:
    body = asked(opening(None), chunk("a"), chunk(" b"))
    assert body["messages"] == [*BODY["messages"], {"role": "assistant", "content": "a b"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["max_tokens"] == 8


def test_pictures_are_not_in_the_ids() -> None:
    parts = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    body = asked(opening([1]), chunk("a", [10]), messages=[{"role": "user", "content": parts}])
    assert body["messages"][-1]["content"] == "a"
    texts = [{"type": "text", "text": "just text"}]
    assert "prompt" in asked(opening([1]), chunk("a", [10]), messages=[{"role": "user", "content": texts}])


def test_nothing_is_appended_where_nothing_was_said_yet() -> None:
    assert asked(opening(None))["messages"] == BODY["messages"]


@pytest.mark.parametrize(
    "events",
    [
        [chunk("", [10], reasoning="hm")],
        [chunk("", [10], tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}])],
        [event({"id": "x", "choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": None}]})],
        [event({"id": "x", "choices": [{"index": 0, "delta": {"content": 7}}]})],
        [b"data: {broken\n\n"],
    ],
    ids=["reasoning", "tool call", "second answer", "other types", "no JSON"],
)
def test_what_is_more_than_text_is_not_continued(events: list[bytes]) -> None:
    assert plan(transcript_of(opening([1]), *events), CHAT, json.dumps(BODY).encode(), 100) is None


def test_after_the_reasoning_the_answer_proper_goes_on_from_ids_and_only_from_those() -> None:
    thought = [chunk("", [10], reasoning="hm"), chunk("so", [11, 12])]
    assert asked(opening([1]), *thought)["prompt"] == [1, 10, 11, 12]
    assert plan(transcript_of(opening(None), *thought), CHAT, json.dumps(BODY).encode(), 100) is None


def test_what_came_after_an_abort_was_not_delivered() -> None:
    assert asked(opening([1]), chunk("a", [10]), chunk("b", [11], "abort"), chunk("c", [12]))["prompt"] == [1, 10]


def test_an_answer_that_is_as_long_as_it_may_be_is_closed() -> None:
    step = plan(
        transcript_of(opening([1]), chunk("a", [10])), CHAT, json.dumps({**BODY, "max_tokens": 1}).encode(), None
    )
    assert isinstance(step, bytes)
    finish, usage, done = step.split(b"\n\n")[:3]
    assert json.loads(finish[6:])["choices"][0]["finish_reason"] == "length"
    assert json.loads(usage[6:])["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    assert done == b"data: [DONE]"


def test_the_next_engines_words_are_told_as_the_first_ones() -> None:
    transcript = transcript_of(opening([1, 2]), chunk("a", [10]))
    step = plan(transcript, CHAT, json.dumps(BODY).encode(), None)
    assert isinstance(step, Continuation)
    choice = {"index": 0, "text": " b", "finish_reason": None, "token_ids": [11]}
    last = {**choice, "text": "", "finish_reason": "stop", "stop_reason": None, "token_ids": [2]}
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    usage = {**counts, "prompt_tokens_details": {"cached_tokens": 3}}
    other = {"id": "cmpl-9", "object": "text_completion", "created": 9, "model": "m"}
    told = step.translate(
        event({**other, "choices": [choice]})
        + event({**other, "choices": [last]})
        + event({**other, "choices": [], "usage": usage})
        + b"data: [DONE]\n\n"
    )
    *chunks, done = [part[6:] for part in told.split(b"\n\n")[:-1]]
    first, second, third = [json.loads(one) for one in chunks]
    assert {(one["id"], one["object"], one["created"]) for one in (first, second, third)} == {
        ("chatcmpl-1", "chat.completion.chunk", 5)
    }
    assert first["choices"][0]["delta"] == {"content": " b"}
    assert (second["choices"][0]["finish_reason"], second["choices"][0]["stop_reason"]) == ("stop", None)
    assert third["usage"]["prompt_tokens"] == 2
    assert third["usage"]["completion_tokens"] == 3
    assert third["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert done == b"[DONE]"
    assert transcript.whole_text == "a b"


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 200_000)), max_size=400), st.lists(st.integers(1, 400)))
def test_however_the_blocks_are_cut_the_same_is_remembered(said: list[tuple[str, int]], cuts: list[int]) -> None:
    """At event boundaries, as the relay does; and however many of them it takes until they are packed."""
    events = [opening([1]), *(chunk(text, [number]) for text, number in said)]
    one, other = Transcript(chat=True), Transcript(chat=True)
    one.take(b"".join(events))
    at = 0
    for size in cuts:
        other.take(b"".join(events[at : at + size]))
        at += size
    other.take(b"".join(events[at:]))
    one.read()
    other.read()
    assert (one.whole_text, one.ids, one.tokens) == (other.whole_text, other.ids, other.tokens)
    assert one.whole_text == "".join(text for text, _ in said)


def test_what_is_kept_is_much_less_than_what_passed() -> None:
    transcript, passed = Transcript(chat=True), 0
    for number in range(2000):
        block = chunk(" word", [number])
        passed += len(block)
        transcript.take(block)
    kept = sum(map(len, [*transcript._blocks, *transcript._packed]))
    assert kept < PACK_AFTER_BYTES + passed / 10
    transcript.read()
    assert list(transcript.ids) == list(range(2000))
