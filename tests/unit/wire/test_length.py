"""C11: what surely does not fit a model's context is refused, and nothing that may fit."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.refusals import ContextTooLong
from forebay.wire.length import check_length, ids_in

CONTEXT = 16
CHAT, COMPLETIONS, RESPONSES = ("max_completion_tokens", "max_tokens"), ("max_tokens",), ("max_output_tokens",)


def refused(fields: dict[str, Any], bounds: tuple[str, ...], prompt_ids: int = 0) -> str | None:
    try:
        check_length(json.dumps(fields).encode(), prompt_ids, CONTEXT, bounds)
    except ContextTooLong as refusal:
        return refusal.param
    return None


@pytest.mark.parametrize(
    ("fields", "bounds", "param"),
    [
        ({"max_tokens": 17}, CHAT, "max_tokens"),
        ({"max_tokens": 16}, CHAT, None),
        ({"max_completion_tokens": 17, "max_tokens": 1}, CHAT, "max_completion_tokens"),
        ({"max_completion_tokens": 1, "max_tokens": 17}, CHAT, None),
        ({"max_completion_tokens": None, "max_tokens": 17}, CHAT, "max_tokens"),
        ({"max_completion_tokens": 17, "max_tokens": 1}, COMPLETIONS, None),
        ({"max_tokens": 17}, RESPONSES, None),
        ({"max_output_tokens": 17}, RESPONSES, "max_output_tokens"),
        ({}, CHAT, None),
    ],
)
def test_of_what_bounds_an_answer_that_counts_which_its_engine_reads(
    fields: dict[str, Any], bounds: tuple[str, ...], param: str | None
) -> None:
    assert refused(fields, bounds) == param


def test_a_prompt_of_too_many_ids_is_refused_unless_it_is_to_be_cut() -> None:
    assert refused({}, COMPLETIONS, 17) == "prompt"
    assert refused({}, COMPLETIONS, 16) is None
    assert refused({"truncate_prompt_tokens": 4}, COMPLETIONS, 17) is None


@given(st.lists(st.lists(st.integers(), min_size=1), min_size=1), st.sampled_from([None, 1]))
def test_ids_are_counted_exactly(prompts: list[list[int]], indent: int | None) -> None:
    assert ids_in(json.dumps(prompts, indent=indent).encode()) == max(len(prompt) for prompt in prompts)
    assert ids_in(json.dumps(prompts[0], indent=indent).encode()) == len(prompts[0])


@pytest.mark.parametrize("prompt", ["a", "[1,2]", ["a"], ["a, b, c", "[1, 2]"], None, {"a": 1}, [1, "a"]])
def test_texts_are_not_counted(prompt: Any) -> None:
    assert ids_in(json.dumps(prompt).encode()) == 0
