"""What settings come to."""

from math import inf
from typing import Any

import pytest

from forebay.config.sources import load_settings
from forebay.gateway.tuning import OWN_PREFILL_S, Tuning

ELSEWHERE = ("http://127.0.0.1:1",)


@pytest.mark.parametrize(
    ("settings", "prefill_s"),
    [
        ({}, OWN_PREFILL_S),
        ({"upstream": ELSEWHERE}, inf),
        ({"prefill_target_s": 0}, inf),
        ({"upstream": ELSEWHERE, "prefill_target_s": 2}, 2.0),
    ],
)
def test_unread_prompts_are_bounded_where_engines_are_known_to_read_in_turn(
    settings: dict[str, Any], prefill_s: float
) -> None:
    loaded, _ = load_settings(settings, env={})
    assert Tuning.of(loaded).admission_rules.prefill_s == prefill_s
