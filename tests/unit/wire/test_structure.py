"""C12, C10: how much an engine may have to compile before the first token, and how many prompts a request has."""

import json
from typing import Any

import pytest

from forebay.refusals import BadRequest
from forebay.wire.body import BodyLimits, read_demand

LIMITS = BodyLimits(
    8, 20, 4, 10**6, 64, 1000, max_prompts=4, max_inputs=3, max_tools=2, max_schema_bytes=2000, max_grammar_bytes=100
)
LONG, SHORT = "(ab+)" * 20 + "$", "(ab+)" * 19 + "$"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def schema(inner: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": {"properties": {"a": inner}}}}


def refused(fields: dict[str, Any], *, ascii_only: bool = True) -> str | None:
    body = json.dumps({"model": "m", "messages": [], **fields}, ensure_ascii=ascii_only).encode()
    try:
        read_demand(body, LIMITS)
    except BadRequest as refusal:
        return refusal.param
    return None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL] * 3}, "tools"),
        ({"functions": [{}] * 3}, "functions"),
        ({"tools": [{"description": "d" * 2000}]}, "tools"),
        ({"response_format": schema({"enum": ["word"] * 400})}, "response_format"),
        ({"response_format": schema({"pattern": LONG})}, "response_format"),
        ({"response_format": schema({"pattern": '\\"é' * 40})}, "response_format"),
        ({"response_format": schema({"patternProperties": {LONG: {}}})}, "response_format"),
        ({"text": {"format": schema({"pattern": LONG})}}, "text"),
        ({"tools": [{"function": {"parameters": {"properties": {"a": {"pattern": LONG}}}}}]}, "tools"),
        ({"structured_outputs": {"regex": LONG}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": LONG}}, "structured_outputs"),
        ({"guided_regex": LONG}, "guided_regex"),
        ({"guided_grammar": LONG}, "guided_grammar"),
        ({"guided_json": {"pattern": LONG}}, "guided_json"),
        ({"guided_json": {"pattern": LONG, "x": 0, "multipleOf": 7}}, "guided_json"),
        ({"guided_choice": ["a" * 100] * 30}, "guided_choice"),
        ({"structured_outputs": {"regex": "(a+)+$"}}, "structured_outputs"),
        ({"guided_regex": "a?" * 40}, "guided_regex"),
        ({"response_format": schema({"pattern": "^(é*)*$"})}, "response_format"),
        ({"text": {"format": schema({"patternProperties": {"(a+)+": {}}})}}, "text"),
        ({"tools": [{"function": {"parameters": {"properties": {"a": {"pattern": "(a+)+"}}}}}]}, "tools"),
        ({"guided_json": {"anyOf": [{"pattern": "(a+)b?c+d(e+)?" * 6}] * 3}}, "guided_json"),
        ({"prompt": ["a"] * 5}, "prompt"),
        ({"prompt": ['a, \\"b\\\\'] * 2, "n": 3}, "prompt"),
        ({"prompt": [[1], [2], [3], [4], [5]]}, "prompt"),
        ({"input": ["a"] * 4}, "input"),
        ({"input": [[1], [2], [3], [4]]}, "input"),
    ],
)
def test_more_than_may_be_compiled_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(fields) == param
    assert refused(fields, ascii_only=False) == param


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL] * 2},
        {"tools": [{"description": "d" * 1900}]},
        {"response_format": schema({"pattern": SHORT, "description": "d" * 500})},
        {"guided_regex": SHORT},
        {"structured_outputs": {"grammar": SHORT}},
        {"prompt": ["a"] * 4},
        {"prompt": ["a"] * 2, "n": 2},
        {"prompt": [1] * 100},
        {"prompt": "a", "n": 8},
        {"input": ["a"] * 3},
        {"input": [{"role": "user", "content": "a"}] * 9},
        {"text": {"format": {"type": "text"}}},
    ],
)
def test_what_is_just_little_enough_passes(fields: dict[str, Any]) -> None:
    assert refused(fields) is None
    assert refused(fields, ascii_only=False) is None


def test_a_name_in_disguise_is_read_all_the_same() -> None:
    body = f'{{"model":"m","messages":[],"response_format":{{"patt\\u0065rn":"{LONG}"}}}}'
    with pytest.raises(BadRequest):
        read_demand(body.encode(), LIMITS)


@pytest.mark.parametrize(
    ("fields", "compiles"),
    [
        ({}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": None}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": schema({"enum": ["a"]})}, True),
        ({"structured_outputs": {"choice": ["a"]}}, True),
        ({"guided_regex": "a"}, True),
        ({"text": {"verbosity": "low"}}, False),
        ({"text": {"format": {"type": "text"}}}, False),
        ({"text": {"format": schema({})}}, True),
        ({"tools": [TOOL]}, False),
        ({"tools": [], "tool_choice": "required"}, False),
        ({"tools": [TOOL], "tool_choice": "auto"}, False),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, False),
        ({"tools": [TOOL], "tool_choice": "required"}, True),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, True),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "auto"}}}, True),
        ({"tools": [{**TOOL, "strict": True}]}, True),
    ],
)
def test_what_an_engine_compiles_something_for_is_known(fields: dict[str, Any], compiles: bool) -> None:
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    assert read_demand(body, LIMITS).compiles is compiles
