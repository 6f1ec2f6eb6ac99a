"""Tokens (JWT) instead of keys."""

from functools import partial
from pathlib import Path
from typing import Literal, Self

from pydantic import SecretStr, field_validator, model_validator

from forebay.config.groups.group import Group, Seconds, declare, without_password

MIN_SECRET_BYTES = 32
setting = partial(declare, group="tokens")


class TokenSettings(Group):
    secret_key: SecretStr | None = setting(
        None,
        "Secret of at least 32 bytes that signs tokens (HS256); turns them on.",
        roles=(),
        aliases=("SECRET_KEY",),
    )
    jwks: str | None = setting(
        None,
        "Key set (JWKS) of who signs tokens: a file, or an https:// URL (http:// on loopback); turns tokens on.",
        aliases=("JWKS_URL",),
    )
    jwks_ca_file: Path | None = setting(
        None, "PEM bundle that signs the certificate of that URL; the system's by default."
    )
    jwks_algorithms: tuple[Literal["RS256", "ES256"], ...] = setting(
        ("RS256", "ES256"), "Algorithms that keys of the set are taken for.", min_length=1
    )
    jwks_refresh_s: Seconds = setting(600.0, "Time after which the set is read again, seconds.")
    jwt_audience: str | None = setting(None, "What a token's `aud` must hold; where not set, a token must have none.")
    jwt_issuer: str | None = setting(None, "What a token's `iss` must be.")
    jwt_leeway_s: float = setting(30.0, "Difference of clocks allowed for, seconds.", ge=0, le=60, allow_inf_nan=False)

    @property
    def uses_tokens(self) -> bool:
        return self.secret_key is not None or self.jwks is not None

    @field_validator("jwks")
    @classmethod
    def _refuse_a_password(cls, value: str | None) -> str | None:
        return without_password(value) if value is not None else None

    @model_validator(mode="after")
    def _check_secret(self) -> Self:
        if self.secret_key is not None and len(self.secret_key.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"secret_key: needs at least {MIN_SECRET_BYTES} bytes")
        return self
