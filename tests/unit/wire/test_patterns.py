"""C12: patterns that take long to compile are found, and those that people write are not."""

import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.wire.patterns import MOST_OPTIONAL, complaint, needs_a_look

MANY = MOST_OPTIONAL + 1


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "^(a*)*$",
        "(?:a+)+",
        "((a+))+",
        "((a+)?)*",
        "(?P<word>\\w+)+",
        "([a-z]+){2,}",
        "a?" * MANY,
        "a*" * MANY,
        "x" + "[a-z]*?" * MANY + "y",
        "(a|)" * MANY,
        "a{0,3}" * MANY,
        "((a?b?c?)(d?e?f?))" * 6,
        "(?i)" + "\\)?" * MANY,
    ],
)
def test_what_takes_long_to_compile_is_refused(pattern: str) -> None:
    assert needs_a_look(pattern)
    assert complaint(pattern) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a+",
        r"^(\d+\.)+\d+$",
        r"(\w+\s?)+",
        r'"([^"\\]+|\\.)*"',
        r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?",
        r"^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*)@(?:[a-z0-9-]+\.)+[a-z]{2,}$",
        r"^(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}$",
        "a?" * MOST_OPTIONAL,
        "a?b" * 1000,
        "[*?]" * 1000,
        "(a+)(b)+",
    ],
)
def test_what_people_write_is_not(pattern: str) -> None:
    assert complaint(pattern) is None


@pytest.mark.parametrize(
    "pattern", ["(", ")" * 50, "[" * 4000 + "?*" * 40, "(" * 4000 + "a?" * 9, "?" * 60, "{" * 99, "\\"]
)
def test_what_is_no_pattern_is_the_engines_to_say(pattern: str) -> None:
    assert complaint(pattern) is None


@given(st.text("ab?*+(|)[]{}12,\\^$:<", max_size=200))
def test_any_text_is_read_to_its_end_or_given_up(text: str) -> None:
    if (wrong := complaint(text)) is not None:
        assert needs_a_look(text), wrong


@given(st.recursive(st.sampled_from(["a", "[bc]", r"\d"]), lambda inner: st.tuples(inner, inner).map("".join)))
def test_what_repeats_nothing_is_never_refused(pattern: str) -> None:
    re.compile(pattern)
    assert complaint(pattern) is None


def test_looking_takes_little_time() -> None:
    began = process_time()
    complaint("([^x]*y?z)" * 800)
    assert process_time() - began < 0.05
