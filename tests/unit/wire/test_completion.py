"""A completion's stream is told again in simple events."""

import json

from forebay.wire.completion import Retelling, read_completion


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def told(data: bytes) -> list[object]:
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line.startswith(b"data: ")]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


def test_texts_are_numbered_and_the_end_has_the_counts() -> None:
    retelling = Retelling()
    block = event(choices=[{"text": "a"}]) + event(choices=[{"text": ""}]) + event(choices=[{"text": "b"}])
    closing = event(choices=[{"text": "", "finish_reason": "stop"}])
    closing += event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2}) + b"data: [DONE]\n\n"
    assert told(retelling.take(block)) == [{"text": "a", "index": 0}, {"text": "b", "index": 1}]
    assert retelling.take(closing) == b""
    assert told(retelling.end({"model_name": "m"})) == [
        {"finish_reason": "stop", "tokens_generated": 2, "prompt_tokens": 3, "model_name": "m"},
        "[DONE]",
    ]


def test_an_error_is_told_and_nothing_counts_behind_it() -> None:
    retelling = Retelling()
    error = {"message": "gone", "type": "server_error", "param": None, "code": "engine_unavailable"}
    assert told(retelling.take(event(error=error) + b"data: [DONE]\n\n")) == [{"error": error}]
    assert told(retelling.end({"model_name": "m"})) == ["[DONE]"]


def test_comments_keep_the_connection_alive() -> None:
    assert Retelling().take(b": waiting\n\n") == b": waiting\n\n"


def test_what_is_no_completion_is_none() -> None:
    assert read_completion(b'{"choices": 3}') is None
    assert read_completion(b"[") is None
    assert read_completion(b"[" * 100_000) is None
