"""What gateways share."""

from functools import partial
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from forebay.config.groups.group import Group, declare

REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")
setting = partial(declare, group="shared")


class SharedSettings(Group):
    redis_url: SecretStr | None = setting(
        None,
        "Redis or Valkey for what several gateways share, counts for limits and cached answers: redis://host:port/0, "
        "rediss:// or unix://. Without it each counts alone and from its start; budgets go on from the usage ledger, "
        "where there is one.",
        roles=(),
        aliases=("REDIS_URL",),
    )
    redis_timeout_s: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = setting(
        0.02, "Time that Redis has for an answer before the gateway does without, seconds."
    )

    @model_validator(mode="after")
    def _check_redis(self) -> Self:
        if self.redis_url is not None:
            _check(self.redis_url.get_secret_value())
        return self


def _check(url: str) -> None:
    """Refuse what is no URL of Redis; nothing of it is said again, for there may be a password in it."""
    if not url.startswith(REDIS_SCHEMES):
        raise ValueError(f"redis_url: must begin with {', '.join(REDIS_SCHEMES)}")
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError("redis_url: its host or port is not valid") from None
