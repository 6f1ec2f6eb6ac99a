"""Where settings come from, which wins, and how a wrong one is refused."""

from pathlib import Path
from typing import Any

import pytest

from forebay.config.sources import SettingsError, load_settings


def test_flags_win_over_the_environment_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    file.write_text('port = 1\nhost = "localhost"\nmax_n = 4\n')
    settings, origin = load_settings({"port": 3}, {"FOREBAY_PORT": "2", "FOREBAY_MAX_N": "5"}, file)
    assert (settings.port, settings.max_n, settings.host, settings.max_stop) == (3, 5, "localhost", 16)
    assert origin == {"port": "--port", "max_n": "FOREBAY_MAX_N", "host": f"{file}:2"}


def test_the_usual_plain_names_work_and_the_prefixed_one_goes_before() -> None:
    env = {"API_KEYS": "sk-a, sk-b,", "MAX_MODEL_LEN": "2048", "MODEL_NAME": "x", "FOREBAY_MODEL": "y"}
    settings, _ = load_settings({}, env)
    assert [key.get_secret_value() for key in settings.api_keys] == ["sk-a", "sk-b"]
    assert (settings.max_model_len, settings.model) == (2048, "y")


def test_aliases_are_read_as_pairs() -> None:
    settings, _ = load_settings({}, {"MODEL_ALIASES": "gpt-4=big, text-davinci-003=*"})
    assert settings.model_aliases == {"gpt-4": "big", "text-davinci-003": "*"}


@pytest.mark.parametrize(
    ("flags", "env", "told"),
    [
        ({}, {"FOREBAY_PORT": "70000"}, "port: Input should be less than or equal to 65535 (from FOREBAY_PORT)"),
        ({"port": "no"}, {}, "port: Input should be a valid integer"),
        ({}, {"FOREBAY_STALL_TIMEOUT_S": "nan"}, "stall_timeout_s"),
        ({}, {"FOREBAY_STALL_TIMEOUT_S": "0"}, "stall_timeout_s"),
        ({}, {"GPU_MEMORY_UTILIZATION": "1.5"}, "gpu_memory_utilization"),
        ({"host": "0.0.0.0"}, {}, "without a key would let anybody in"),
        ({}, {"FOREBAY_TLS_CERT_FILE": "x.pem"}, "tls_cert_file: needs tls_key_file"),
        ({}, {"FOREBAY_CONFIG": "/does/not/exist.toml"}, "/does/not/exist.toml: cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(flags: dict[str, Any], env: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        load_settings(flags, env)
    assert told in str(wrong.value)


def test_an_unknown_key_and_broken_toml_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"prot: no such setting \(from .*forebay.toml:1\)"):
        load_settings({}, {}, file)
    file.write_text("port = = 1\n")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings({}, {}, file)


def test_a_byte_order_mark_before_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    (file := tmp_path / "forebay.toml").write_text("port = 8123\n", "utf-8-sig")
    assert load_settings({}, {}, file)[0].port == 8123


def test_listening_beyond_loopback_needs_a_key_or_a_word() -> None:
    load_settings({"host": "0.0.0.0"}, {"API_KEYS": "sk-a"})
    load_settings({"host": "0.0.0.0", "allow_anonymous": True}, {})


def test_an_engine_beyond_loopback_needs_a_key_or_a_word() -> None:
    with pytest.raises(SettingsError, match="set FOREBAY_UPSTREAM_API_KEY"):
        load_settings({"engine_host": "0.0.0.0"}, {})
    load_settings({"engine_host": "0.0.0.0"}, {"FOREBAY_UPSTREAM_API_KEY": "sk-a"})
    load_settings({"engine_host": "0.0.0.0", "allow_anonymous": True}, {})


def test_a_prompt_may_hold_a_comma() -> None:
    settings, _ = load_settings({}, {"FOREBAY_WARMUP_PROMPTS": "One, two\nthree\n"})
    assert settings.warmup_prompts == ("One, two", "three")


def test_no_secret_shows_in_settings_or_errors() -> None:
    settings, _ = load_settings({}, {"API_KEYS": "sk-canary", "FOREBAY_UPSTREAM_API_KEY": "sk-canary"})
    assert "canary" not in repr(settings) + str(settings.model_dump())
    with pytest.raises(SettingsError) as wrong:
        load_settings({"port": -1}, {"API_KEYS": "sk-canary"})
    assert "canary" not in str(wrong.value)
