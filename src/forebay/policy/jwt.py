"""Whose token is this? A signed JSON Web Token becomes a principal, or is refused.

Which algorithms there are is configuration's to say, and each key is for one alone, so that a token can choose neither
(`none`, a public key taken for a secret). Nothing in a token names a key's place (`jku`, `x5u`, `jwk` are not looked
at), and a header that must be understood (`crit`) is not. Doubled names, a token without an end, another audience or
issuer: all refused. These claims are read:

    exp, nbf, iat          seconds; exp is required, and a little difference of clocks is allowed for
    aud, iss               as configured
    tenant, else sub       the tenant; sub, else the tenant, names the key in logs
    scope or scopes        a list, or text separated by spaces; `inference` where there is none
    models                 a list, none for all
    priority, weight       as a key's
    limits                 requests_per_minute, tokens_per_minute, concurrency, tokens_per_day, tokens_per_month;
                           its own, beside those of its tenant, which no token can say
"""

import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jwt.algorithms import Algorithm, ECAlgorithm, HMACAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from forebay.policy.auth import KeyLimits, Principal, with_default
from forebay.policy.grants import SCOPES, Grant, Limits, TenantName, dotted
from forebay.refusals import Unauthorized
from forebay.wire.plain import plain_object

MIN_RSA_BITS = 2048
MAX_KEYS = 100
MAX_NAME = 128
ALGORITHMS: dict[str, Algorithm] = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256),
}
_BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_KINDS = {"RSA": "RS256", "EC": "ES256"}


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say, whoever signed it."""

    audience: str | None
    issuer: str | None
    leeway_s: float
    default: KeyLimits


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart, of which nothing is believed yet."""

    algorithm: str
    key_id: str | None
    signed: bytes
    payload: bytes
    signature: bytes


class Signer:
    """One key, for one algorithm. Its repr shows neither."""

    __slots__ = ("_key", "algorithm", "key_id")

    def __init__(self, algorithm: str, key_id: str | None, key: Any) -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self._key = key

    def signed(self, token: Unverified) -> bool:
        return token.algorithm == self.algorithm and ALGORITHMS[self.algorithm].verify(
            token.signed, self._key, token.signature
        )


class _Claims(BaseModel):
    """The claims that make a principal; others are none of ours."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    sub: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,128}$")
    tenant: TenantName | None = None
    limits: Limits = Limits.model_construct()


_tenant_name: TypeAdapter[str] = TypeAdapter(TenantName)
_GRANTED = ("models", "priority", "weight")


def secret_signer(secret: str) -> Signer:
    """The signer of HS256. Its secret's length has been checked with the settings."""
    return Signer("HS256", None, secret.encode())


def take_apart(credential: bytes) -> Unverified:
    """Read a token's header. Raises `Unauthorized`."""
    try:
        signed, _, signature = credential.rpartition(b".")
        header_part, _, payload_part = signed.partition(b".")
        header = plain_object(_decoded(header_part))
        token = Unverified(
            str(header.get("alg")), header.get("kid"), signed, _decoded(payload_part), _decoded(signature)
        )
    except ValueError:
        raise invalid("it is not well-formed") from None
    if "crit" in header or "b64" in header:
        raise invalid("its header asks for what is not understood")
    if token.key_id is not None and not (isinstance(token.key_id, str) and len(token.key_id) <= MAX_NAME):
        raise invalid("its key id is not well-formed")
    return token


def verified(token: Unverified, signers: Iterable[Signer], rules: TokenRules, wall: float) -> Principal:
    """The principal that a token is for, one of the signers having signed it. Raises `Unauthorized`."""
    if not any(signer.signed(token) for signer in signers):
        raise invalid("its signature is not valid")
    try:
        claims = plain_object(token.payload)
    except ValueError:
        raise invalid("it is not well-formed") from None
    expires_at = _check_times(claims, rules, wall)
    _check_purpose(claims, rules)
    return _principal(claims, rules, expires_at)


def read_key_set(text: bytes, algorithms: Iterable[str]) -> list[Signer]:
    """The keys of a JWKS that are for the algorithms; others are passed by. Raises ValueError where it is none."""
    listed = plain_object(text).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise ValueError(f"not a key set of at most {MAX_KEYS} keys")
    taken = set(algorithms)
    return [signer for entry in listed if (signer := _signer(entry)) is not None and signer.algorithm in taken]


def _signer(entry: Any) -> Signer | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    algorithm = _KINDS.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        key: Any = ALGORITHMS[algorithm].from_jwk({name: entry[name] for name in entry if name not in ("d", "p", "q")})
    except (InvalidKeyError, ValueError, TypeError, KeyError):
        return None
    if key.key_size < MIN_RSA_BITS if algorithm == "RS256" else key.curve.name != "secp256r1":
        return None
    key_id = entry.get("kid")
    return Signer(algorithm, key_id if isinstance(key_id, str) else None, key)


def _check_times(claims: Mapping[str, Any], rules: TokenRules, wall: float) -> float:
    """Return when the token ends, the leeway included."""
    expires, begins, made = (_seconds(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise invalid("it has no end (exp)")
    if wall >= expires + rules.leeway_s:
        raise invalid("it has expired")
    if max(begins or 0.0, made or 0.0) > wall + rules.leeway_s:
        raise invalid("it is not valid yet")
    return expires + rules.leeway_s


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e11:
        raise invalid(f"its {name} is not a time")
    return float(value)


def _check_purpose(claims: Mapping[str, Any], rules: TokenRules) -> None:
    told = claims.get("aud")
    audience = told if isinstance(told, list) else [told] if told is not None else []
    if (rules.audience not in audience) if rules.audience is not None else bool(audience):
        raise invalid("it is for another audience")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise invalid("it is of another issuer")


def _principal(claims: dict[str, Any], rules: TokenRules, expires_at: float) -> Principal:
    try:
        named = _Claims.model_validate(claims)
        given = {name: claims[name] for name in _GRANTED if claims.get(name) is not None}
        known = _scopes(claims.get("scopes", claims.get("scope", ["inference"])))
        grant = Grant.model_validate({"scopes": known or ["inference"], **given})
        tenant = named.tenant or _tenant_name.validate_python(named.sub)
    except (ValidationError, TypeError) as wrong:
        where = dotted(wrong.errors()[0]["loc"]) if isinstance(wrong, ValidationError) else "scopes"
        raise invalid(f"its claim {where or 'tenant'} is not as it must be") from None
    return Principal(
        tenant,
        f"jwt-{named.sub or tenant}",
        frozenset(grant.scopes) if known else frozenset(),
        frozenset(grant.models) if grant.models is not None else None,
        grant.priority,
        grant.weight,
        with_default(KeyLimits(**named.limits.model_dump()), rules.default),
        expires_at=expires_at,
    )


def _scopes(told: Any) -> list[str]:
    """The scopes that are ours: one of somebody else's is no reason to refuse, it opens nothing here."""
    named = told.split() if isinstance(told, str) else told
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise TypeError("neither a list of texts nor a text")
    return [one for one in named if one in SCOPES]


def invalid(why: str) -> Unauthorized:
    return Unauthorized(f"The token is not valid: {why}.", code="invalid_token")


def _decoded(part: bytes) -> bytes:
    """base64url without padding, in the one way that it may be written."""
    if part.translate(None, _BASE64URL):
        raise ValueError("not base64url")
    decoded = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=") != part:
        raise ValueError("not as base64url is written")
    return decoded
