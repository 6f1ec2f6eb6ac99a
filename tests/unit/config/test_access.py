"""Who may call, as the settings say it: keys in the environment, their limits, and secrets that are never shown."""

import pytest

from forebay.config.settings import Settings
from forebay.config.sources import SettingsError, load_settings
from forebay.gateway.tuning import make_authenticator
from forebay.policy.auth import Principal

KEYS = {"API_KEYS": "sk-a,sk-b,sk-c"}


def loaded(**env: str) -> Settings:
    return load_settings({}, env=env)[0]


def refusal(**env: str) -> str:
    with pytest.raises(SettingsError) as refused:
        loaded(**env)
    return str(refused.value)


def who(settings: Settings, key: str) -> Principal:
    found = make_authenticator(settings, None, None).authenticate(f"Bearer {key}".encode(), None, 0.0)
    assert isinstance(found, Principal)
    return found


def rate(settings: Settings, key: str) -> int | None:
    return who(settings, key).limits.requests_per_minute


def test_keys_have_their_own_limit_or_the_default() -> None:
    settings = loaded(**KEYS, API_KEY_LIMITS="sk-a:200,sk-b:500", DEFAULT_RATE_LIMIT="100")
    assert [rate(settings, key) for key in ("sk-a", "sk-b", "sk-c")] == [200, 500, 100]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"DEFAULT_RATE_LIMIT": "100"}, 100),
        ({"DEFAULT_RATE_LIMIT": "100", "RATE_LIMIT_WINDOW_MINUTES": "3"}, 33),
        ({"RATE_LIMIT_REQUESTS": "100"}, 100),
        ({"RATE_LIMIT_REQUESTS": "100", "RATE_LIMIT_WINDOW": "10"}, 600),
    ],
)
def test_a_rate_within_a_window_becomes_one_a_minute(env: dict[str, str], expected: int | None) -> None:
    assert rate(loaded(**KEYS, **env), "sk-a") == expected
    assert rate(loaded(**env), "anything") == expected  # anonymous callers, all together


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"API_KEY_LIMITS": "sk-x:5"}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a"}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a:"}, "api_key_limits"),
        ({"API_KEY_LIMITS": ":5"}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a:0"}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a:-1"}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a:1e3"}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a:nan"}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a:" + "9" * 40}, "api_key_limits"),
        ({"API_KEY_LIMITS": "sk-a:5,sk-b:1,sk-a:50"}, "api_key_limits"),
        ({"DEFAULT_RATE_LIMIT": "5", "FOREBAY_KEY_LIMITS": "requests_per_minute=9"}, "key_limits"),
        ({"FOREBAY_KEY_LIMITS": "requests_per_minute=9,requests_per_minute=5"}, "key_limits"),
        ({"FOREBAY_KEY_LIMITS": "tokens_per_day=1000000000001"}, "key_limits"),
        ({"FOREBAY_TENANT_LIMITS": "requests_per_hour=9"}, "tenant_limits"),
        ({"FOREBAY_GLOBAL_LIMITS": "concurrency=0"}, "global_limits"),
        ({"FOREBAY_ADDRESS_LIMITS": "concurrency=1"}, "address_limits"),
        ({"RATE_LIMIT_WINDOW": "10"}, "rate_limit_window_s"),
        ({"RATE_LIMIT_WINDOW_MINUTES": "5", "API_KEY_LIMITS": "sk-a:5"}, "rate_limit_window_minutes"),
        ({"DEFAULT_RATE_LIMIT": "0"}, "default_rate_limit"),
        ({"DEFAULT_RATE_LIMIT": "nan"}, "default_rate_limit"),
        ({"DEFAULT_RATE_LIMIT": "1000000000000000000"}, "default_rate_limit"),
        ({"DEFAULT_RATE_LIMIT": "5", "RATE_LIMIT_WINDOW_MINUTES": "60"}, "default_rate_limit"),
        ({"RATE_LIMIT_WINDOW_MINUTES": "5", "RATE_LIMIT_WINDOW": "300"}, "rate_limit_window_minutes"),
        ({"SECRET_KEY": "x" * 31}, "secret_key"),
        ({"FOREBAY_JWT_LEEWAY_S": "61"}, "jwt_leeway_s"),
        ({"FOREBAY_JWKS_ALGORITHMS": "HS256"}, "jwks_algorithms"),
        ({"FOREBAY_JWKS_ALGORITHMS": "none"}, "jwks_algorithms"),
    ],
    ids=repr,
)
def test_what_cannot_be_enforced_is_refused_by_its_key(env: dict[str, str], key: str) -> None:
    told = refusal(**KEYS, **env)
    assert told.startswith(key)
    assert "sk-" not in told
    assert "xxxx" not in told


def test_a_window_of_a_minute_says_nothing_and_is_let_be() -> None:
    assert loaded(RATE_LIMIT_WINDOW="60").default_rate is None


def test_no_secret_is_in_what_settings_or_keys_show() -> None:
    settings = loaded(
        **KEYS,
        API_KEY_LIMITS="sk-a:200",
        ADMIN_KEYS="sk-admin",
        SECRET_KEY="x" * 32,
        DATABASE_URL="postgresql://u:hunter2@h/d",
    )
    shown = repr(settings) + str(settings) + repr(make_authenticator(settings, None, None))
    assert not any(secret in shown for secret in ("sk-a", "sk-admin", "xxxx", "hunter2"))


def test_a_key_may_be_a_callers_and_an_administrators() -> None:
    settings = loaded(API_KEYS="sk-a,sk-both", ADMIN_KEYS="sk-admin,sk-both")
    assert who(settings, "sk-a").scopes == {"inference", "metrics"}
    assert who(settings, "sk-admin").scopes == {"admin"}
    assert who(settings, "sk-both").scopes == {"inference", "metrics", "admin"}


@pytest.mark.parametrize(
    "env", [{"FOREBAY_KEYS_DATABASE": "true"}, {"DATABASE_URL": "sqlite:///x"}, {"SECRET_KEY": "x" * 32}]
)
def test_whatever_asks_for_keys_lets_it_listen_beyond_loopback(env: dict[str, str]) -> None:
    assert loaded(FOREBAY_HOST="0.0.0.0", **env).asks_for_keys
    assert "host" in refusal(FOREBAY_HOST="0.0.0.0")


@pytest.mark.parametrize(
    "url", ["http://me:canary@host:1", "dns://canary@host:8000", "kubernetes://canary@prod/vllm:1"]
)
def test_a_password_in_an_engines_url_is_refused_and_not_said_again(url: str) -> None:
    told = refusal(UPSTREAMS=url)
    assert "would be shown" in told
    assert "canary" not in told


def test_nor_is_one_in_the_key_sets() -> None:
    told = refusal(JWKS_URL="https://me:canary@host/keys")
    assert "would be shown" in told
    assert "canary" not in told


@pytest.mark.parametrize(
    ("env", "taken"),
    [
        ({"FOREBAY_HOST": "0.0.0.0"}, False),
        ({"FOREBAY_HOST": "10.0.0.5"}, False),
        ({"FOREBAY_HOST": "::"}, False),
        ({"FOREBAY_HOST": "::1"}, True),
        ({}, True),
        ({"FOREBAY_HOST": "0.0.0.0", "FOREBAY_ALLOW_PLAIN_ADMIN": "true"}, True),
        ({"FOREBAY_HOST": "0.0.0.0", "TRUSTED_PROXIES": "10.0.0.0/8"}, True),
        ({"FOREBAY_HOST": "0.0.0.0", "FOREBAY_TLS_CERT_FILE": "c.pem", "FOREBAY_TLS_KEY_FILE": "k.pem"}, True),
    ],
)
def test_administrators_keys_are_not_sent_in_the_clear_unless_somebody_says_so(
    env: dict[str, str], taken: bool
) -> None:
    """D9: refused at the start, with what to do; nothing is asked of who has no such keys."""
    assert loaded(API_KEYS="sk-a", **env)
    if taken:
        assert loaded(API_KEYS="sk-a", ADMIN_KEYS="sk-canary", **env).admin_keys
    else:
        told = refusal(API_KEYS="sk-a", ADMIN_KEYS="sk-canary", **env)
        assert "--allow-plain-admin" in told
        assert "canary" not in told
