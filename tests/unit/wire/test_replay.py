"""Which answers may be said again, and that they bear an id of their own when they are."""

import json
from typing import Any

import pytest

from forebay.wire.replay import id_of, is_complete, with_id


def chat(*reasons: str | None) -> bytes:
    choices = [{"index": at, "message": {"content": "x"}, "finish_reason": why} for at, why in enumerate(reasons)]
    return json.dumps({"id": "chatcmpl-1", "choices": choices}).encode()


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def chunk(index: int = 0, finish_reason: str | None = None) -> bytes:
    return event(id="chatcmpl-1", choices=[{"index": index, "delta": {"content": "x"}, "finish_reason": finish_reason}])


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("body", "choices", "complete"),
    [
        (chat("stop"), 1, True),
        (chat("length"), 1, True),
        (chat("tool_calls"), 1, True),
        (chat("abort"), 1, False),
        (chat("content_filter"), 1, False),
        (chat(None), 1, False),
        (chat("stop", "stop"), 2, True),
        (chat("stop", None), 2, False),
        (chat("stop"), 2, False),
        (b'{"type":"message","id":"msg_1","stop_reason":"end_turn"}', 1, True),
        (b'{"type":"message","id":"msg_1","stop_reason":null}', 1, False),
        (b'{"object":"list","data":[{"embedding":[1.0]}]}', 1, True),
        (b'{"object":"list","data":[]}', 1, False),
        (b'{"error":{"message":"x"}}', 1, False),
        (b"[]", 1, False),
        (b"", 1, False),
    ],
)
def test_a_whole_answer_is_kept_only_if_each_choice_ended_well(body: bytes, choices: int, complete: bool) -> None:
    assert is_complete(body, stream=False, choices=choices) is complete


@pytest.mark.parametrize(
    ("events", "choices", "complete"),
    [
        (chunk() + chunk(finish_reason="stop") + DONE, 1, True),
        (chunk() + DONE, 1, False),
        (chunk(finish_reason="abort") + DONE, 1, False),
        (chunk(0, "stop") + chunk(1, "length") + DONE, 2, True),
        (chunk(0, "stop") + chunk(1) + DONE, 2, False),
        (b"event: message_delta\n" + event(type="message_delta", delta={"stop_reason": "max_tokens"}), 1, True),
        (b"event: message_delta\n" + event(type="message_delta", delta={"stop_reason": "refusal"}), 1, False),
        (event(error={"message": "x"}) + DONE, 1, False),
        (b"", 1, False),
    ],
)
def test_a_stream_is_kept_only_if_each_choice_ended_well(events: bytes, choices: int, complete: bool) -> None:
    assert is_complete(events, stream=True, choices=choices) is complete


def test_every_event_bears_the_new_id_and_no_text_is_touched() -> None:
    tricky = event(id="chatcmpl-1", choices=[{"delta": {"content": '"chatcmpl-1"'}}])
    events = chunk() + tricky + DONE
    assert id_of(events, stream=True) == "chatcmpl-1"
    told = with_id(events, "chatcmpl-1", "ff00")
    assert told == events.replace(b'{"id":"chatcmpl-1"', b'{"id":"chatcmpl-ff00"')
    assert b'\\"chatcmpl-1\\"' in told


@pytest.mark.parametrize(("old", "new"), [("msg_abc", "msg_ff"), ("embd-x-y", "embd-ff"), ("1234", "ff"), ("", "")])
def test_the_kind_of_id_stays(old: str, new: str) -> None:
    assert with_id(f'{{"id": "{old}"}}'.encode(), old, "ff") == f'{{"id": "{new}"}}'.encode()


def test_the_id_of_a_message_is_inside_its_first_event() -> None:
    start = event(type="message_start", message={"id": "msg_1"})
    assert id_of(b"event: message_start\n" + start, stream=True) == "msg_1"
    assert id_of(b'{"id":"msg_2"}', stream=False) == "msg_2"
    assert id_of(b"data: [DONE]\n\n", stream=True) == ""
