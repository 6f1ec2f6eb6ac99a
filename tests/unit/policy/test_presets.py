"""A preset fills in what a request does not say."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from forebay.config.settings import Settings
from forebay.config.sources import SettingsError, load_settings
from forebay.policy.presets import BUILT_IN, Preset, Presets, split_model
from forebay.refusals import BadRequest

OURS = Presets({})


def filled(name: str, model: str | None = None, taken: frozenset[str] | None = None, **said: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(OURS.fill(json.dumps(said).encode(), name, taken, model))
    return body


def test_the_five_have_the_values_that_their_page_says() -> None:
    assert {name: preset.model_dump(exclude_none=True) for name, preset in BUILT_IN.items()} == {
        "deterministic": {"temperature": 0, "top_p": 1},
        "creative": {"temperature": 1.0, "top_p": 0.95},
        "balanced": {"temperature": 0.7, "top_p": 0.9},
        "code_generation": {"temperature": 0.2, "top_p": 0.95},
        "chat": {"temperature": 0.7, "top_p": 0.95},
    }


def test_what_the_request_says_wins_and_null_says_nothing() -> None:
    body = filled("balanced", temperature=1.5, top_p=None, max_tokens=3)
    assert body == {"temperature": 1.5, "top_p": 0.9, "max_tokens": 3}


def test_the_name_goes_and_the_model_that_is_meant_comes() -> None:
    assert filled("creative", model="m", preset="creative", prompt="x") == {
        "model": "m",
        "prompt": "x",
        "temperature": 1.0,
        "top_p": 0.95,
    }


def test_an_endpoint_gets_only_the_fields_that_it_has() -> None:
    assert filled("balanced", taken=frozenset({"top_p"}), input="x") == {"input": "x", "top_p": 0.9}
    assert filled("balanced", taken=frozenset(), input="x") == {"input": "x"}


def test_what_is_not_the_presets_goes_on_as_it_was_written() -> None:
    body = b'{"prompt":"\\u00e9 1e3","logit_bias":{"5":1e1}, "preset":"chat"}'
    told = OURS.fill(body, "chat", None, None)
    assert b'"\\u00e9 1e3"' in told
    assert b'{"5":1e1}' in told


def test_an_unknown_one_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(BadRequest) as caught:
        filled("nope" * 100)
    assert caught.value.param == "preset"
    assert len(caught.value.message) < 250
    for name in BUILT_IN:
        assert name in caught.value.message


def test_the_operators_own_stand_beside_ours_or_in_their_place() -> None:
    presets = Presets({"chat": Preset(top_k=5), "terse": Preset(temperature=0.1)})
    assert presets.describe()["chat"] == {"top_k": 5}
    assert presets.describe()["terse"] == {"temperature": 0.1}
    assert presets.describe()["balanced"] == {"temperature": 0.7, "top_p": 0.9}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("m:chat", ("m", "chat")),
        ("org/m:8b:chat", ("org/m:8b", "chat")),
        ("m", None),
        (":chat", None),
        ("m:", None),
        ("", None),
        (None, None),
    ],
)
def test_a_preset_stands_behind_the_last_colon(name: str | None, parts: tuple[str, str] | None) -> None:
    assert split_model(name) == parts


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.1},
        {"temperature": -0.1},
        {"temperature": True},
        {"temperature": "0.5"},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -2},
        {"min_p": 1.1},
        {"presence_penalty": 2.5},
        {"frequency_penalty": -2.5},
        {"repetition_penalty": 0},
        {"max_tokens": 5},
        {"priority": 1},
    ],
)
def test_a_preset_has_sampling_fields_in_their_ranges_and_no_others(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(presets={"mine": fields})


@pytest.mark.parametrize("name", ["", "a:b", "a b", "x" * 65])
def test_a_name_is_one_that_can_stand_behind_a_model(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings(presets={name: {"temperature": 1}})


def test_presets_come_from_the_environment_as_json() -> None:
    settings, _ = load_settings({}, env={"FOREBAY_PRESETS": '{"terse": {"temperature": 0.3, "top_k": 4}}'})
    assert settings.presets == {"terse": Preset(temperature=0.3, top_k=4)}
    with pytest.raises(SettingsError, match="presets"):
        load_settings({}, env={"FOREBAY_PRESETS": '{"terse": {"temperature": 3}}'})
