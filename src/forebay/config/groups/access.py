"""Who may call: keys that stand in the settings, and the limits that came with them."""

from functools import partial
from typing import Self

from pydantic import SecretStr, model_validator

from forebay.config.groups.group import ALL, Group, Seconds, declare
from forebay.policy.attempts import USUAL_MOST

setting = partial(declare, group="access")


class AccessSettings(Group):
    api_keys: tuple[SecretStr, ...] = setting(
        (),
        "Keys that callers present, comma-separated in the environment.",
        roles=(),
        aliases=("API_KEYS",),
        hot=True,
    )
    api_key_limits: tuple[SecretStr, ...] = setting(
        (),
        "Requests a minute for some of api_keys, as key:number, comma-separated in the environment.",
        roles=(),
        aliases=("API_KEY_LIMITS",),
        hot=True,
    )
    default_rate_limit: int | None = setting(
        None,
        "Requests within the window below for each key (and for all anonymous callers together) that has no number of "
        "its own; made into requests a minute, rounded down.",
        aliases=("DEFAULT_RATE_LIMIT", "RATE_LIMIT_REQUESTS"),
        ge=1,
        le=10**12,
    )
    rate_limit_window_s: Seconds = setting(
        60.0, "The window of default_rate_limit, seconds.", aliases=("RATE_LIMIT_WINDOW",)
    )
    rate_limit_window_minutes: int | None = setting(
        None, "The same window, minutes.", aliases=("RATE_LIMIT_WINDOW_MINUTES",), ge=1, le=1440
    )
    admin_keys: tuple[SecretStr, ...] = setting(
        (),
        "Keys for /admin, besides those with the scope admin in the database; without any it answers nobody.",
        roles=(),
        aliases=("ADMIN_KEYS",),
        hot=True,
    )
    failed_keys_per_minute: int = setting(
        USUAL_MOST,
        "Keys and tokens that are nobody's, from one address within a minute, after which further ones are answered "
        "429. Valid ones work all the same.",
        ge=1,
        le=10**6,
    )
    allow_anonymous: bool = setting(
        False,
        "Listen beyond loopback without any key. Anybody who reaches the port can use it.",
        roles=ALL,
    )
    allow_plain_admin: bool = setting(
        False,
        "Take admin_keys beyond loopback without TLS, because something in front brings it, as trusted_proxies says "
        "too, or the network is your own.",
    )
    metrics_public: bool = setting(
        False, "Serve /metrics and /metrics/engines without a key.", aliases=("METRICS_PUBLIC",)
    )

    @property
    def key_rates(self) -> dict[str, int]:
        """Requests a minute of keys that have their own. Raises ValueError."""
        return dict(_key_and_rate(number, entry) for number, entry in enumerate(self.api_key_limits, 1))

    @property
    def default_rate(self) -> int | None:
        """Requests a minute of whoever has no number of its own. Raises ValueError."""
        if self.default_rate_limit is None:
            return None
        minutes = self.rate_limit_window_minutes or self.rate_limit_window_s / 60
        if (rate := int(self.default_rate_limit / minutes)) < 1:
            raise ValueError("default_rate_limit: less than one request a minute cannot be enforced")
        return rate

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if not all(key.get_secret_value() for key in self.api_keys):
            raise ValueError("api_keys: a key is empty")
        if len(self.key_rates) < len(self.api_key_limits):
            raise ValueError("api_key_limits: a key is in it twice")
        if stray := self.key_rates.keys() - {key.get_secret_value() for key in self.api_keys}:
            raise ValueError(f"api_key_limits: api_keys does not have {len(stray)} of these keys")
        if self.rate_limit_window_minutes is not None and "rate_limit_window_s" in self.model_fields_set:
            raise ValueError("rate_limit_window_minutes: set either this or rate_limit_window_s, not both")
        window_s = (self.rate_limit_window_minutes or 0) * 60 or self.rate_limit_window_s
        if self.default_rate_limit is None and window_s != 60:
            name = "rate_limit_window_minutes" if self.rate_limit_window_minutes else "rate_limit_window_s"
            raise ValueError(f"{name}: is default_rate_limit's window and limits nothing without it")
        _ = self.default_rate
        return self


def _key_and_rate(number: int, entry: SecretStr) -> tuple[str, int]:
    """One of api_key_limits. What is wrong is said without the key."""
    key, colon, rate = entry.get_secret_value().rpartition(":")
    if not colon or not key or not rate.isascii() or not rate.isdigit() or not 1 <= int(rate[:20]) <= 10**12:
        raise ValueError(f"api_key_limits: entry {number} is not key:number with a number from 1 to 10^12")
    return key, int(rate)
