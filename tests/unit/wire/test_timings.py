"""Engines' own timings are read out of answers, and what is left is the same answer."""

import json
from typing import Any

import pytest

from forebay.wire.timings import MARK, Timings, taken_from

TOLD = {"queue_time_ms": 12.5, "time_to_first_token_ms": 30, "speculative_decoding": {"drafted": 3}}


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("wrapped", [False, True])
def test_they_are_taken_and_all_else_stays(wrapped: bool) -> None:
    rest = {"id": "1", "choices": [{"n": 1.50, "text": "é \\n"}], "usage": {"prompt_tokens": 1}}
    body: dict[str, Any] = {**rest, "metrics": TOLD}
    answer = compact({"type": "response.completed", "response": body} if wrapped else body)
    assert MARK in answer
    timings, left = taken_from(answer)
    assert timings == Timings(queue_time_ms=12.5, time_to_first_token_ms=30.0)
    assert left == compact({"type": "response.completed", "response": rest} if wrapped else rest)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"metrics":{"queue_time_ms":"a secret"}}',
        b'{"metrics":{"queue_time_ms":NaN}}',
        b'{"choices":[{"metrics":{"queue_time_ms":1}}]}',
        b'{"response":3,"x":{"metrics":{}}}',
        b'["metrics":{}]',
        b"[DONE]",
        b"",
        b"[" * 100_000,
    ],
)
def test_what_is_none_is_left_as_it_is(answer: bytes) -> None:
    assert taken_from(answer) == (None, answer)


def test_words_that_look_like_them_are_not_found() -> None:
    assert MARK not in compact({"choices": [{"message": {"content": '"metrics":{"queue_time_ms":1}'}}]})
