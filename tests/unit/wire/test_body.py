"""What is read of a request's body, and what is sent on."""

import json
from typing import Any

import pytest

from forebay.refusals import BadRequest, InvalidJSON
from forebay.wire.body import BodyLimits, body_for_engine, read_demand, work_tokens

LIMITS = BodyLimits(max_n=8, max_logprobs=20, max_stop=4, max_json_depth=64)


def demand_of(**fields: Any) -> Any:
    return read_demand(json.dumps({"model": "m", **fields}).encode(), LIMITS)


def test_what_the_gateway_must_know_is_read() -> None:
    demand = demand_of(stream=True, n=2, max_tokens=7, stream_options={"include_usage": True})
    assert (demand.model, demand.stream, demand.wants_usage, demand.max_tokens, demand.n) == ("m", True, True, 7, 2)
    plain = demand_of()
    assert (plain.stream, plain.wants_usage, plain.max_tokens, plain.n) == (False, False, None, 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 10**30}, "n"),
        ({"n": "2"}, "n"),
        ({"best_of": 9}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -2}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"model": ["m"]}, "model"),
        ({"priority": 0}, "priority"),
        ({"cache_salt": "x"}, "cache_salt"),
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"chat_template": None}, "chat_template"),
        ({"stream_options": 1}, "stream_options"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        demand_of(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 8},
        {"logprobs": True},
        {"logprobs": 20},
        {"top_logprobs": 0},
        {"stop": ["a"] * 4},
        {"stop": "a"},
        {"max_tokens": 0},
    ],
)
def test_what_is_just_allowed_passes(fields: dict[str, Any]) -> None:
    assert demand_of(**fields).model == "m"


@pytest.mark.parametrize("depth", [63, 64, 65, 900])
def test_nesting_is_bounded(depth: int) -> None:
    body = b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    if depth <= 64:
        read_demand(body, LIMITS)
    else:
        with pytest.raises(InvalidJSON):
            read_demand(body, LIMITS)


def test_brackets_in_text_are_not_nesting() -> None:
    assert demand_of(prompt='[{"' * 500 + '\\"').model == "m"
    assert demand_of(messages=[{"role": "user"}] * 500).model == "m"


def test_a_body_that_needs_no_change_is_sent_as_it_is() -> None:
    body = b'{ "model" : "m", "seed": 1.0e0, "x": "\\u00e9" }'
    assert body_for_engine(body, read_demand(body, LIMITS), "m", ask_usage=False) is body


def test_a_change_leaves_every_other_value_byte_for_byte() -> None:
    body = b'{"model":"alias","seed":1.0e0,"x":"\\u00e9","big":12345678901234567890,"stream_options":{"a":1.50}}'
    changed = body_for_engine(body, read_demand(body, LIMITS), "m", ask_usage=True)
    for kept in (b'"seed":1.0e0', b'"x":"\\u00e9"', b'"big":12345678901234567890', b'"a":1.50'):
        assert kept in changed
    fields = json.loads(changed)
    assert fields["model"] == "m"
    assert fields["stream_options"] == {"a": 1.5, "include_usage": True}


def test_null_stream_options_are_none() -> None:
    body = b'{"model":"m","stream":true,"stream_options":null}'
    changed = body_for_engine(body, read_demand(body, LIMITS), "m", ask_usage=True)
    assert json.loads(changed)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fields", "body_bytes", "tokens"),
    [
        ({}, 400, 100 + 256),
        ({"max_tokens": 10}, 400, 100 + 10),
        ({"max_completion_tokens": 10, "n": 3}, 400, 100 + 30),
        ({"max_tokens": 100_000}, 400, 100 + 1024),
        ({"max_tokens": 1}, 10_000_000, 32_768 + 1),
    ],
)
def test_work_is_the_prompt_and_what_may_be_generated(fields: dict[str, Any], body_bytes: int, tokens: int) -> None:
    assert work_tokens(demand_of(**fields), body_bytes) == tokens
    assert work_tokens(demand_of(**fields), body_bytes, generates=False) == min(body_bytes // 4, 32_768)
