"""What makes two requests parts of one conversation."""

import json
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.affinity import PROMPT_BYTES, Affinity, _number, affinity_of
from forebay.policy.auth import Principal

ONE = Principal(tenant="one", key_id="key-1")
SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello, I am Ada."}
ANSWER = {"role": "assistant", "content": "Hello Ada."}
MORE = {"role": "user", "content": "What is my name?"}


def of(body: Any, session_id: bytes | None = None, principal: Principal = ONE) -> Affinity:
    return affinity_of(principal, session_id, json.dumps(body).encode())


def parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


CONVERSATIONS: dict[str, tuple[Any, Any, Any]] = {  # a first turn, a later one, and another conversation's first
    "chat": ({"messages": [HELLO]}, {"messages": [HELLO, ANSWER, MORE], "stream": True}, {"messages": [MORE]}),
    "chat with a system message": (
        {"messages": [SYSTEM, HELLO]},
        {"temperature": 1, "messages": [SYSTEM, HELLO, ANSWER, MORE]},
        {"messages": [SYSTEM, MORE]},
    ),
    "Anthropic's form": (
        {"system": "Be brief.", "messages": [HELLO]},
        {"messages": [HELLO, ANSWER, MORE], "system": "Be brief."},
        {"system": "Be long.", "messages": [HELLO]},
    ),
    "Anthropic's cache marks, which move on": (
        {"messages": [{"role": "user", "content": [{**parts("Hi")[0], "cache_control": {"type": "ephemeral"}}]}]},
        {"messages": [{"role": "user", "content": parts("Hi")}, ANSWER, MORE]},
        {"messages": [{"role": "user", "content": parts("Ho")}]},
    ),
    "Responses, text": (
        {"input": "Hello"},
        {"input": "Hello", "model": "m"},
        {"input": "Hello", "instructions": "Sing."},
    ),
    "Responses, items": ({"input": [SYSTEM, HELLO]}, {"input": [SYSTEM, HELLO, ANSWER, MORE]}, {"input": [HELLO]}),
    "completions": (
        {"prompt": "a" * PROMPT_BYTES},
        {"prompt": "a" * PROMPT_BYTES + " and so on"},
        {"prompt": "b" + "a" * PROMPT_BYTES},
    ),
    "prompt_cache_key": (
        {"prompt_cache_key": "k", "messages": [HELLO]},
        {"prompt_cache_key": "k", "messages": [MORE]},
        {"prompt_cache_key": "l", "messages": [HELLO]},
    ),
}


@pytest.mark.parametrize(("first", "later", "other"), CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_later_turns_are_of_the_same_conversation_and_others_are_not(first: Any, later: Any, other: Any) -> None:
    assert of(first).conversation
    assert of(later) == of(first)
    assert of(other) != of(first)
    assert of(first, principal=Principal("two", "key-1")) != of(first), "never shared between tenants"
    assert of(first, principal=Principal("one", "key-2")) == of(first), "but between a tenant's keys"


def test_a_session_id_goes_before_a_cache_key_and_that_before_messages() -> None:
    body = {"prompt_cache_key": "k", "messages": [HELLO]}
    assert of(body, b"s") == of({"messages": [MORE]}, b"s")
    assert of(body, b"s") != of(body, b"t")
    assert len({of(body, b"k"), of(body), of({"messages": [HELLO]}), of({"prompt": "k"}), of({"input": "k"})}) == 5
    assert of(body, b"") == of(body)


@pytest.mark.parametrize(
    "body",
    [{}, [], None, 3, "text", {"messages": []}, {"messages": {}}, {"messages": 3}, {"prompt": None}, {"prompt": ""}],
)
def test_where_no_conversation_is_known_the_number_is_the_callers(body: Any) -> None:
    assert of(body) == of({})
    assert not of(body).conversation
    assert of(body, principal=Principal("one", "key-2")) != of(body)


@pytest.mark.parametrize("body", [{"input": ""}, {"prompt_cache_key": None}, {"prompt_cache_key": ""}, {"system": "x"}])
def test_an_empty_field_is_no_field(body: Any) -> None:
    assert of(body) == of({})
    assert of(body | {"prompt": "hello"}).conversation


@pytest.mark.parametrize("odd", [3, None, "user", [], {}, {"role": 3}, {"role": "users"}, {"role": ["user"]}])
def test_odd_messages_are_passed_over_until_the_users(odd: Any) -> None:
    assert of({"messages": [odd, HELLO]}) == of({"messages": [odd, HELLO, ANSWER]})
    assert of({"messages": [odd, HELLO]}) != of({"messages": [odd, MORE]})


def test_of_a_very_long_message_both_ends_count() -> None:
    def long(start: str, end: str) -> Affinity:
        return of({"messages": [{"role": "user", "content": start + "x" * 100_000 + end}]})

    assert long("a", "b") == long("a", "b")
    assert len({long("a", "b"), long("c", "b"), long("a", "c")}) == 3


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(["messages", "input", "prompt", "system", "prompt_cache_key", "instructions"])
messages = st.lists(values | st.fixed_dictionaries({"role": values | st.just("user"), "content": values}), max_size=4)


@given(st.dictionaries(fields, values | messages, max_size=6), st.none() | st.binary(max_size=8))
def test_any_body_has_a_number(body: Any, session_id: bytes | None) -> None:
    number, _ = of(body, session_id)
    assert 0 <= number < 2**64
    assert of(body, session_id).number == number


@given(st.binary(max_size=64) | st.text(alphabet='{}[]":,\\ user role messages', max_size=64).map(str.encode))
def test_bytes_that_are_no_json_are_no_conversation(body: bytes) -> None:
    affinity_of(ONE, None, body)
    affinity_of(ONE, None, b'{"messages":' + body)
    affinity_of(ONE, None, b'{"messages":[{"role":"user","content":"\xff"}],"input":' + body + b"}")


@pytest.mark.parametrize("piece", [b'"cache_control":{', b'"cache_control":{},', b"{ ", b", ", b'{"role":"user"},'])
def test_a_megabyte_of_anything_costs_milliseconds(piece: bytes) -> None:
    text = b'{"messages":[{"role":"x","content":[' + piece * (1_000_000 // len(piece)) + b"0]}]}"
    began = process_time()
    affinity_of(ONE, None, text)
    affinity_of(ONE, None, b'{"prompt_cache_key":' + msgspec.json.encode(text.decode()) + b"}")
    _number("tenant", [text])
    assert process_time() - began < 0.25


def test_depth_and_lone_surrogates_are_no_trouble() -> None:
    affinity_of(ONE, None, b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    affinity_of(ONE, None, rb'{"prompt_cache_key":"\ud800","messages":[{"role":"\ud800user\"user\""}]}')
