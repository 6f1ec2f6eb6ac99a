"""Settings and command lines are shown without what is secret in them."""

import json

import pytest

from forebay.config.settings import Settings
from forebay.config.shown import shown_command, shown_settings


def test_settings_are_shown_whole_and_secrets_only_as_set() -> None:
    settings = Settings(
        api_keys=("sk-one", "sk-two"),
        database_url="postgresql://me:pass-1@db/forebay",
        prices={"m": {"prompt": "0.15", "completion": 1}},
        presets={"terse": {"temperature": 0.3}},
        engine_args=("--api-key", "pass-2", "--hf-token=pass-3", "--max-num-batched-tokens", "512"),
        models=({"model": "a", "engine_args": ["--api-key", "pass-4"]},),
    )
    shown = shown_settings(settings)
    assert set(shown) == set(Settings.model_fields)
    assert shown["api_keys"] == ["set", "set"]
    assert shown["database_url"] == "set"
    assert shown["upstream_api_key"] is None
    assert shown["port"] == 8000
    assert shown["presets"] == {"terse": {"temperature": 0.3}}
    assert shown["engine_args"][-2:] == ["--max-num-batched-tokens", "512"]
    text = json.dumps(shown)
    assert "pass-" not in text
    assert "sk-" not in text


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["vllm", "--api-key", "a", "b", "--port", "1"], ["vllm", "--api-key", "***", "***", "--port", "1"]),
        (["--hf-token=x", "y"], ["--hf-token=***", "***"]),
        (["--ssl-keyfile-password", "x"], ["--ssl-keyfile-password", "***"]),
        (["--tokenizer", "t", "--max-num-batched-tokens=9"], ["--tokenizer", "t", "--max-num-batched-tokens=9"]),
        (["--model", "https://me:pw@host/m"], ["--model", "https://***@host/m"]),
        (["--x-config", '{"api_key": "a\\"b", "n": 1}'], ["--x-config", '{"api_key": "***", "n": 1}']),
    ],
)
def test_a_command_line_keeps_all_but_secrets(argv: list[str], shown: list[str]) -> None:
    assert shown_command(argv) == shown
