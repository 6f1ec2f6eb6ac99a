"""`forebay keys token --tenant T`: a signed token instead of a key."""

from time import time
from typing import Annotated

import jwt
import typer
from pydantic import ValidationError

from forebay.cli.grants import Models, Rpm, Scopes, TenantOption, Tpm, duration, fields_given
from forebay.cli.options import EXIT_USAGE, Config, fail
from forebay.cli.settings_options import named_settings
from forebay.policy.grants import NewKey, not_valid

MAX_TOKEN_S = 86_400


def token(
    tenant: TenantOption,
    subject: Annotated[str | None, typer.Option(help="Who it is for; named in logs. The tenant by default.")] = None,
    scope: Scopes = None,
    model: Models = None,
    requests_per_minute: Rpm = None,
    tokens_per_minute: Tpm = None,
    lasts: Annotated[str, typer.Option(help="How long it is valid: 15m, 12h, at most 1d.")] = "15m",
    config: Config = None,
) -> None:
    """Print a token (JWT), signed with SECRET_KEY; no database is needed:

    forebay keys token --tenant acme --lasts 15m
    """
    settings = named_settings(config)
    if settings.secret_key is None:
        fail("secret_key: set SECRET_KEY to the secret that the gateways have", EXIT_USAGE)
    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    try:
        new = NewKey.model_validate(fields_given(tenant=tenant, scopes=scope, models=model, **limits))
    except ValidationError as wrong:
        fail(str(not_valid(wrong)), EXIT_USAGE)
    seconds = duration(lasts)
    if seconds is None or not 0 < seconds <= MAX_TOKEN_S:
        fail("lasts: a number and m, h or d, at most 1d in all", EXIT_USAGE)
    now = int(time())
    claims = {"sub": subject or tenant, "tenant": tenant, "iat": now, "exp": now + seconds, "scopes": new.scopes}
    claims |= {"limits": new.model_dump(include=set(limits), exclude_none=True)} if any(limits.values()) else {}
    claims |= {"models": new.models} if new.models is not None else {}
    claims |= {"aud": settings.jwt_audience} if settings.jwt_audience is not None else {}
    claims |= {"iss": settings.jwt_issuer} if settings.jwt_issuer is not None else {}
    typer.echo(jwt.encode(claims, settings.secret_key.get_secret_value(), algorithm="HS256"))
