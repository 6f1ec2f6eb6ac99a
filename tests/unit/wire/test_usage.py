"""Token counts in the three styles, and what is no answer at all."""

import json
from typing import Any

import pytest

from forebay.wire.usage import Usage, is_aborted, read_answer, read_event, usage_of


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}},
            Usage(3, 5, 2),
        ),
        ({"usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 1}}, Usage(3, 5, 1)),
        ({"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 0}}}, Usage(3, 0, 0)),
        ({"response": {"usage": {"input_tokens": 3, "output_tokens": 5}}}, Usage(3, 5, 0)),
        ({"usage": None}, None),
        ({"choices": []}, None),
    ],
)
def test_usage_is_found_wherever_an_api_puts_it(answer: dict[str, Any], usage: Usage | None) -> None:
    read = read_answer(json.dumps(answer).encode())
    assert read is not None
    assert usage_of(read) == usage


def test_an_abort_is_seen() -> None:
    for reason, aborted in (("abort", True), ("stop", False), (None, False)):
        read = read_answer(json.dumps({"choices": [{"finish_reason": reason}]}).encode())
        assert read is not None
        assert is_aborted(read) is aborted


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"a":', b"1", b"[" * 100_000])
def test_what_is_no_json_object_is_no_answer(body: bytes) -> None:
    assert read_answer(body) is None


def test_an_answer_of_unexpected_types_is_one_all_the_same() -> None:
    read = read_answer(b'{"id": 7, "usage": "much"}')
    assert read is not None
    assert usage_of(read) is None


def test_events_that_are_no_json_say_nothing() -> None:
    assert read_event(b"data: [DONE]\n\n") is None
    assert read_event(b": ping\n\n") is None
    read = read_event(b'event: x\ndata: {"usage":\ndata: {"prompt_tokens": 4}}\n\n')
    assert read is not None
    assert usage_of(read) == Usage(4, 0, 0)
