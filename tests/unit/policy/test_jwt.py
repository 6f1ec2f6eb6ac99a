"""Tokens: what makes one a principal, and every way in which one is refused."""

import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import HMACAlgorithm

from forebay.policy.auth import UNLIMITED, KeyLimits, Principal
from forebay.policy.jwt import Signer, TokenRules, read_key_set, secret_signer, take_apart, verified
from forebay.refusals import Unauthorized

SECRET = "s" * 32
NOW = 1_000_000.0
RULES = TokenRules(audience=None, issuer=None, leeway_s=30.0, default=UNLIMITED)
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS: dict[str, Any] = {"sub": "ci", "tenant": "acme", "exp": NOW + 60}


def token(claims: dict[str, Any] | None = None, header: dict[str, Any] | None = None, secret: str = SECRET) -> bytes:
    """A signed token of any claims, those that a library would not write included."""
    head = {"alg": "HS256", "typ": "JWT", **(header or {})}
    return signed(json.dumps(head).encode(), json.dumps(claims if claims is not None else CLAIMS).encode(), secret)


def signed(head: bytes, payload: bytes, secret: str = SECRET) -> bytes:
    text = part(head) + b"." + part(payload)
    return text + b"." + part(HMACAlgorithm(HMACAlgorithm.SHA256).sign(text, secret.encode()))


def part(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


PUBLIC = read_key_set(key_set(jwk(RSA_KEY, "r"), jwk(EC_KEY, "e")), ["RS256", "ES256"])
SIGNERS = [secret_signer(SECRET), *PUBLIC]


def read(credential: bytes, rules: TokenRules = RULES, signers: list[Signer] = SIGNERS, wall: float = NOW) -> Principal:
    return verified(take_apart(credential), signers, rules, wall)


def refused(credential: bytes, told: str, rules: TokenRules = RULES, signers: list[Signer] = SIGNERS) -> None:
    with pytest.raises(Unauthorized, match=told) as found:
        read(credential, rules, signers)
    assert found.value.code == "invalid_token"
    assert credential.decode() not in found.value.message


def test_claims_become_a_principal() -> None:
    claims = {
        **CLAIMS,
        "scope": "inference metrics openid",
        "models": ["m"],
        "priority": 3,
        "weight": 2,
        "limits": {"tokens_per_minute": 9},
        "email": "x@y",
    }
    rules = TokenRules(None, None, 30.0, KeyLimits(requests_per_minute=5))
    assert read(token(claims), rules) == Principal(
        "acme",
        "jwt-ci",
        frozenset({"inference", "metrics"}),
        frozenset({"m"}),
        3,
        2.0,
        KeyLimits(requests_per_minute=5, tokens_per_minute=9),
        expires_at=NOW + 90,
    )


def test_without_a_tenant_the_subject_is_it() -> None:
    assert read(token({"sub": "acme", "exp": NOW + 60})).tenant == "acme"


def test_scopes_that_are_none_of_ours_open_nothing() -> None:
    assert read(token({**CLAIMS, "scope": "openid email"})).scopes == frozenset()
    assert read(token(CLAIMS)).scopes == frozenset({"inference"})


@pytest.mark.parametrize(("key", "kid", "algorithm"), [(RSA_KEY, "r", "RS256"), (EC_KEY, "e", "ES256")])
def test_both_public_key_kinds_sign(key: Any, kid: str, algorithm: str) -> None:
    credential = jwt.encode(CLAIMS, key, algorithm, headers={"kid": kid}).encode()
    assert read(credential, signers=PUBLIC).tenant == "acme"
    other = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else rsa.generate_private_key(65537, 2048)
    refused(jwt.encode(CLAIMS, other, algorithm, headers={"kid": kid}).encode(), "signature")


def test_a_public_key_is_never_a_secret() -> None:
    for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1):
        pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, form).decode()
        refused(token(header={"kid": "r"}, secret=pem), "signature", signers=PUBLIC)


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "HS384", "HS512", "RS256", "PS256", "", None, 7, ["HS256"]]
)
def test_no_other_algorithm_is_taken(algorithm: Any) -> None:
    refused(token(header={"alg": algorithm}), "signature", signers=[secret_signer(SECRET)])
    unsigned = token(header={"alg": algorithm}).rpartition(b".")[0] + b"."
    refused(unsigned, "signature")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["x"], "x": 1}, {"b64": False}], ids=repr)
def test_a_header_that_asks_for_more_is_refused(header: dict[str, Any]) -> None:
    refused(token(header=header), "not understood")


def test_a_place_named_in_a_header_is_not_looked_at() -> None:
    away = {"jku": "http://169.254.169.254/", "x5u": "file:///etc/passwd", "jwk": jwk(RSA_KEY, "r")}
    assert read(token(header=away)).tenant == "acme"


@pytest.mark.parametrize("kid", [7, "k" * 129, ["r"], {"a": 1}])
def test_a_key_id_that_is_none_is_refused(kid: Any) -> None:
    refused(token(header={"kid": kid}), "key id")


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"exp": None}, "no end"),
        ({"exp": NOW - 30}, "expired"),
        ({"exp": str(NOW)}, "exp is not a time"),
        ({"exp": True}, "exp is not a time"),
        ({"exp": 1e300}, "exp is not a time"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"iat": NOW + 31}, "not valid yet"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["another"]}, "audience"),
        ({"tenant": None, "sub": None}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": 7}, "tenant"),
        ({"tenant": None, "sub": "a b"}, "sub"),
        ({"sub": "x\ny"}, "sub"),
        ({"scopes": 7}, "scopes"),
        ({"models": []}, "models"),
        ({"models": "m"}, "models"),
        ({"priority": 1e9}, "priority"),
        ({"weight": "2"}, "weight"),
        ({"limits": {"requests_per_minute": -1}}, "limits.requests_per_minute"),
        ({"limits": {"tokens_per_day": "5"}}, "limits.tokens_per_day"),
        ({"limits": {"nonsense": 5}}, "limits.nonsense"),
        ({"limits": 5}, "limits"),
    ],
    ids=repr,
)
def test_a_wrong_claim_is_refused_by_its_name(claims: dict[str, Any], told: str) -> None:
    refused(token({**CLAIMS, **claims}), told)


def test_the_clocks_may_differ_a_little() -> None:
    assert read(token({**CLAIMS, "exp": NOW - 29, "nbf": NOW + 29})).expires_at == NOW + 1


def test_audience_and_issuer_are_those_that_are_asked_for() -> None:
    rules = TokenRules("forebay", "https://issuer", 0.0, UNLIMITED)
    good = {**CLAIMS, "aud": ["x", "forebay"], "iss": "https://issuer"}
    assert read(token(good), rules).tenant == "acme"
    for wrong in ({"aud": None}, {"aud": []}, {"aud": "forebay2"}, {"aud": {"forebay": 1}}):
        refused(token({**good, **wrong}), "audience", rules)
    for wrong in ({"iss": None}, {"iss": "https://issuer/"}, {"iss": ["https://issuer"]}):
        refused(token({**good, **wrong}), "issuer", rules)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"a","sub":"b","exp":2000000}',
        b'{"sub":"a","exp":NaN}',
        b"[1]",
        b'"x"',
        b"",
        b"\xff",
        b"[" * 5000,
        b'{"sub":"a","exp":1e999}',
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_a_payload_that_is_no_plain_object_is_refused(payload: bytes) -> None:
    refused(signed(b'{"alg":"HS256"}', payload), "not valid")


@pytest.mark.parametrize("header", [b'{"alg":"none","alg":"HS256"}', b"[]", b"", b"{", b"[" * 5000])
def test_a_header_that_is_no_plain_object_is_refused(header: bytes) -> None:
    refused(signed(header, json.dumps(CLAIMS).encode()), "not well-formed")


@given(st.binary(max_size=300), st.integers(0, 3))
def test_no_bytes_bring_anything_but_a_refusal(noise: bytes, dots: int) -> None:
    for credential in (noise, part(noise) + b"." * dots, b"eyJ" + noise, token()[:-1] + noise[:1], token() + noise):
        if credential != token():
            with pytest.raises(Unauthorized):
                read(credential)


@given(st.integers(0, len(token()) - 1), st.sampled_from(b"ABCxyz019-_"))
def test_no_changed_letter_goes_unnoticed(at: int, letter: int) -> None:
    good = token()
    changed = good[:at] + bytes([letter]) + good[at + 1 :]
    if changed != good:
        with pytest.raises(Unauthorized):
            read(changed)


def test_of_a_key_set_only_what_can_be_trusted_is_taken() -> None:
    short = rsa.generate_private_key(65537, 1024)
    taken = read_key_set(
        key_set(
            jwk(RSA_KEY, "good"),
            jwk(RSA_KEY, "encrypts", use="enc"),
            jwk(RSA_KEY, "other algorithm", alg="RS512"),
            jwk(short, "short"),
            jwk(ec.generate_private_key(ec.SECP384R1()), "other curve"),
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
            {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
            {"kty": "RSA", "kid": "half"},
            {"kty": ["RSA"]},
        ),
        ["RS256", "ES256"],
    )
    assert [signer.key_id for signer in taken] == ["good"]
    assert read_key_set(key_set(jwk(RSA_KEY, "r")), ["ES256"]) == []


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"keys": 1}', b"<html>", json.dumps({"keys": [{}] * 101}).encode()]
)
def test_what_is_no_key_set_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any)
        read_key_set(text, ["RS256"])


def test_a_signer_does_not_show_its_key() -> None:
    assert SECRET not in repr([secret_signer(SECRET)])
