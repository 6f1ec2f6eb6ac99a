"""The metrics port is opened to nobody by mistake."""

import pytest

from forebay.config.settings import Settings
from forebay.config.sources import SettingsError, load_settings


def loaded(**env: str) -> Settings:
    return load_settings({}, env=env)[0]


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"METRICS_PORT": "9090"},
        {"METRICS_PORT": "9090", "FOREBAY_METRICS_HOST": "::1"},
        {"METRICS_PORT": "9090", "FOREBAY_METRICS_HOST": "10.0.0.5", "API_KEYS": "sk-a"},
        {"METRICS_PORT": "9090", "FOREBAY_HOST": "0.0.0.0", "API_KEYS": "sk-a"},
        {"METRICS_PORT": "9090", "FOREBAY_METRICS_HOST": "10.0.0.5", "FOREBAY_METRICS_PORT_PUBLIC": "true"},
        {"METRICS_PORT": "9090", "FOREBAY_METRICS_HOST": "10.0.0.5", "METRICS_PUBLIC": "true"},
        {"METRICS_PORT": "9090", "FOREBAY_HOST": "0.0.0.0", "FOREBAY_ALLOW_ANONYMOUS": "true"},
    ],
)
def test_it_listens_where_it_is_told_to(env: dict[str, str]) -> None:
    settings = loaded(**env)
    assert settings.metrics_port == (9090 if env else None)
    assert settings.metrics_address == env.get("FOREBAY_METRICS_HOST", env.get("FOREBAY_HOST", "127.0.0.1"))


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"METRICS_PORT": "9090", "FOREBAY_METRICS_HOST": "0.0.0.0"}, "metrics_host: listening on 0.0.0.0 without"),
        ({"FOREBAY_METRICS_HOST": "10.0.0.5"}, "metrics_port: is not set"),
        ({"FOREBAY_METRICS_PORT_PUBLIC": "true"}, "metrics_port: is not set"),
        ({"METRICS_PORT": "65536"}, "metrics_port"),
        ({"METRICS_PORT": "true"}, "metrics_port"),
    ],
)
def test_it_is_refused_where_it_would_be_open_or_nowhere(env: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        loaded(**env)
