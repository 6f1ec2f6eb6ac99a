"""A batch's lines."""

import json
from typing import Any

import pytest

from forebay.wire.batch_lines import WrongLine, answer_line, error_line, keep, read_kept, read_line, with_model

ASKED = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x"}}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"custom_id": ""}, "invalid_custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id"),
        ({"custom_id": 1}, "invalid_request"),
        ({"method": "GET"}, "invalid_method"),
        ({"url": "/admin/v1/keys"}, "invalid_url"),
        ({"body": "text"}, "invalid_request"),
        ({"body": {"stream": True}}, "invalid_request"),
    ],
)
def test_a_line_that_is_no_request_is_refused(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(WrongLine) as wrong:
        read_line(json.dumps({**ASKED, **fields}).encode())
    assert wrong.value.code == code


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b'{"custom_id":"a","method":"POST","url":"x","body":' + b"[" * 9999]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(WrongLine):
        read_line(text)


def test_a_line_is_read_and_its_body_is_as_it_was_but_for_the_model() -> None:
    line = read_line(json.dumps(ASKED).encode() + b"\n", "/v1/completions")
    assert json.loads(bytes(line.body)) == ASKED["body"]
    assert json.loads(with_model(line.body, "other")) == {"model": "other", "prompt": "x"}


def test_an_answer_is_one_line_whatever_its_body_looks_like() -> None:
    text = answer_line("r", "a", 200, "id", b'{\n  "text": "one\\ntwo"\r\n}')
    assert b"\n" not in text
    assert json.loads(text)["response"] == {"status_code": 200, "request_id": "id", "body": {"text": "one\ntwo"}}
    with pytest.raises(ValueError, match=r"malformed|truncated"):
        answer_line("r", "a", 200, "id", b"<html>")


def test_a_journals_line_is_read_as_it_was_kept_unless_it_was_cut_short() -> None:
    told = error_line("r", "a", "batch_expired", "late")
    text = keep(7, False, told)
    kept = read_kept(text)
    assert kept is not None
    assert (kept.number, kept.ok, bytes(kept.line)) == (7, False, told)
    assert [read_kept(text[:end]) for end in range(len(text))] == [None] * len(text)
