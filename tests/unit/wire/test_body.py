"""What is read of a request's body, and what is sent on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.refusals import BadRequest, InvalidJSON
from forebay.wire import shape
from forebay.wire.body import BodyLimits, body_for_engine, most_tokens, prompt_tokens, read_demand, work_tokens
from forebay.wire.shape import check_parts

SLICE_BYTES = shape._SLICE_BYTES
LIMITS = BodyLimits(
    max_n=8, max_logprobs=20, max_stop=4, max_output_tokens=10**6, max_json_depth=64, max_json_parts=1000
)


def demand_of(**fields: Any) -> Any:
    return read_demand(json.dumps({"model": "m", **fields}).encode(), LIMITS)


def test_what_the_gateway_must_know_is_read() -> None:
    demand = demand_of(stream=True, n=2, max_tokens=7, stream_options={"include_usage": True})
    assert (demand.model, demand.stream, demand.wants_usage, demand.max_tokens, demand.n) == ("m", True, True, 7, 2)
    plain = demand_of()
    assert (plain.stream, plain.wants_usage, plain.max_tokens, plain.n) == (False, False, None, 1)


@pytest.mark.parametrize(
    ("prompt", "n", "answers"),
    [
        ("one [text]", None, 1),
        ("text", 3, 3),
        ([1, 2, 3], None, 1),
        ([], None, 1),
        (["one"], 2, 2),
        (["one", "two", "three"], None, 3),
        (["one", "two"], 3, 6),
        ([[1, 2], [3]], None, 2),
    ],
)
def test_each_of_several_prompts_has_its_answers(prompt: Any, n: int | None, answers: int) -> None:
    demand = demand_of(prompt=prompt, stream=True, **({} if n is None else {"n": n}))
    assert demand.n == answers
    assert demand.resumable == (answers == 1)
    assert most_tokens(demand, 400, 256) == 100 + 256 * answers


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
        ({"max_tokens": 10**6 + 1}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"max_output_tokens": 10**6 + 1}, "max_output_tokens"),
        ({"n": 2, "max_tokens": 10**6 + 1}, "max_tokens"),
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
        {"max_tokens": 10**6},
        {"temperature": "0.5", "seed": 2**63, "top_k": -1},
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[],"model":"m"}',
        b'{"model":"m","messages":[{"x":":"}],"messages":[]}',
        b'{"model":"m","messages":[],"mod\\u0065l":"m"}',
        b'{"model":"m","prompt":"a","max_tokens":1,"max_tokens":null}',
        b'{"model":"m","prompt":"a","x":1,"x":1}',
        b'{"model":"m","prompt":"a","messages":[],"prompt":"a"}',
        b'{"model":"m","input":"a","tools":[{"a":1}],"tools":[]}',
        b'{"model":"m","prompt":"a","stream_options":{"include_usage":true,"include_usage":true}}',
        b'{"model":"m","prompt":"a","stream_options":{"x":1,"x":2}}',
        b'{"user":"%b:a","prompt":"%b:b","seed":1,"seed":2}' % (b"x" * 2000, b"x" * 2000),
        b'{"user":"%b:a","prompt":"%b:a","seed":1,"seed":2}' % (b"x" * 2000, b"x" * 2000),
        b'{"prompt":"%b:b","user":"%b:a","seed":1,"seed":2}' % (b"x" * 2000, b"x" * 2000),
        b'{"model":"m:","messages":["%b:"],"seed":1,"seed":2}' % (b"x" * 2000),
        b'{"model":"m","model":"m"}',
        b'{"":1,"":2}',
    ],
)
def test_a_name_that_comes_twice_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match="twice"):
        read_demand(body, LIMITS)


NAMES = st.sampled_from(["model", "messages", "prompt", "input", "stop", "n", "user", "a:b", "é", "tools", '"', ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(':"{[\\a', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(':"{a', max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.booleans())
def test_names_are_found_twice_just_where_they_are(members: list[tuple[str, Any]], ascii_only: bool) -> None:
    """Types aside, which are refused as such."""
    said = [f"{json.dumps(name, ensure_ascii=ascii_only)} : {json.dumps(value)}" for name, value in members]
    refused = None
    try:
        read_demand(f"{{{', '.join(said)}}}".encode(), LIMITS)
    except BadRequest as wrong:
        refused = wrong
    if refused is None or refused.code == "invalid_json":
        assert (refused is not None) == (len(dict(members)) < len(members))


@given(st.recursive(st.text(':"{[]}\\', max_size=4), lambda inner: st.lists(inner, max_size=2), max_leaves=12))
def test_depth_and_parts_are_those_of_the_text(value: Any) -> None:
    def depth(inner: Any) -> int:
        return 1 + max(map(depth, inner), default=0) if isinstance(inner, list) else 0

    def parts(inner: Any) -> int:
        return 1 + sum(map(parts, inner)) if isinstance(inner, list) else 0

    text = json.dumps({"x": value}).encode()
    check_parts(text, 1 + depth(value), 1 + parts(value))
    with pytest.raises(InvalidJSON, match="deeper"):
        check_parts(text, depth(value), 1 + parts(value))
    with pytest.raises(InvalidJSON, match="more than"):
        check_parts(text, 1 + depth(value), parts(value))


def test_the_parts_of_a_body_are_bounded() -> None:
    demand_of(x=[[1] * 50] * 998)
    for value in ([[1]] * 1000, {str(number): {} for number in range(1000)}, [{}] * 1000, [""] * 60_000 + [[]] * 70):
        with pytest.raises(InvalidJSON, match="more than"):
            demand_of(prompt=value)


@pytest.mark.parametrize("name", ["temperature", "top_p", "seed"])
@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 5000])
def test_a_number_that_nothing_can_hold_is_refused_by_name(name: str, number: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_demand(f'{{"model":"m","prompt":"a","{name}":{number}}}'.encode(), LIMITS)
    assert refused.value.param == name
    assert len(refused.value.message) < 200


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


@pytest.mark.parametrize("ask_ids", [False, True])
@pytest.mark.parametrize("ask_usage", [False, True])
@pytest.mark.parametrize("options", ["", '"stream_options":{"a":1.50},'])
@pytest.mark.parametrize("model", ["m", "alias"])
def test_a_salt_comes_last_and_once_whatever_else_is_asked_for(
    model: str, options: str, ask_usage: bool, ask_ids: bool
) -> None:
    body = f'{{"model":"{model}",{options}"seed":1.0e0,"prompt":"a}} \\u00e9" }} '.encode()
    demand = read_demand(body, LIMITS)
    sent = body_for_engine(body, demand, "m", ask_usage=ask_usage, ask_ids=ask_ids, salt=b',"cache_salt":"s"')
    assert sent.endswith(b',"cache_salt":"s"}')
    assert b'"seed":1.0e0' in sent
    pairs = json.loads(sent, object_pairs_hook=list)
    assert len({name for name, _ in pairs}) == len(pairs)
    fields = json.loads(sent)
    assert (fields["model"], fields["prompt"], fields["cache_salt"]) == ("m", "a} é", "s")
    assert fields.get("return_token_ids", False) == ask_ids
    assert fields.get("stream_options", {}).get("include_usage", False) == ask_usage
    assert not options or fields["stream_options"]["a"] == 1.5


@pytest.mark.parametrize("name", ["cache_salt", "cache\\u005fsalt", "\\u0063ache_salt"])
@pytest.mark.parametrize("value", ['"mine"', "null", "7", '{"a":1}'])
def test_no_spelling_of_a_salt_is_taken_from_a_caller(name: str, value: str) -> None:
    for body in (f'{{"{name}":{value},"model":"m","prompt":"a"}}', f'{{"model":"m","prompt":"a","{name}":{value}}}'):
        with pytest.raises(BadRequest) as refused:
            read_demand(body.encode(), LIMITS)
        assert refused.value.param == "cache_salt"


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
    assert prompt_tokens(demand_of(**fields), body_bytes) == min(body_bytes // 4, 32_768)


@given(
    st.lists(st.sampled_from([b"\\\\", b'\\"', b"[", b"}", b"x", b"\\n", b":", b","]), max_size=40),
    st.integers(1, 9),
)
def test_a_text_is_counted_the_same_in_slices(pieces: list[bytes], size: int) -> None:
    """Whatever a slice begins or ends with, an escape too."""
    text = b'{"x":["' + b"".join(pieces) + b'",[1,2],"y"]}'
    shape._SLICE_BYTES = size + 1
    try:
        assert b"".join(shape.slices(text)) == text
        assert shape.texts_in(text) == 3
        check_parts(text, 3, 3)
        with pytest.raises(InvalidJSON, match="deeper"):
            check_parts(text, 2, 3)
        with pytest.raises(InvalidJSON, match="more than"):
            check_parts(text, 3, 2)
    finally:
        shape._SLICE_BYTES = SLICE_BYTES


@pytest.mark.parametrize("at", [0, 5, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 2 * SLICE_BYTES])
def test_a_long_body_is_utf_8_to_its_last_slice(at: int) -> None:
    text = "é".encode() * (SLICE_BYTES + 10)
    read_demand(b'{"model":"m","prompt":"' + text + b'"}', LIMITS)
    opening = b'{"model":"m","prompt":"' + b"x" * at
    with pytest.raises(InvalidJSON, match=rf"UTF-8 \(byte {len(opening)}\)"):
        read_demand(opening + b"\xff" + text + b'"}', LIMITS)
