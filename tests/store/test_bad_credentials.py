"""Credentials that are wrong in every way there is: refused alike, told nothing, kept nowhere, and quickly."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import digest
from random import Random
from statistics import median
from time import perf_counter_ns, time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from forebay.config.settings import Settings
from forebay.policy.attempts import Attempts
from forebay.policy.auth import UNLIMITED, Authenticator, Principal
from forebay.policy.known import Known
from forebay.refusals import Unauthorized
from forebay.store.database import Database
from forebay.store.directory import KeyDirectory
from forebay.store.keys import Keys
from forebay.store.tokens import Tokens
from tests.gateway.calls import CHAT, chat_body, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import RawConnection, Response, connect
from tests.store.databases import made, new_key

SECRET = "canary-secret-0123456789abcdef-0123456789abcdef"
GOOD = {"authorization": "Bearer sk-good"}
NOW = time()  # when the tests were found, and they may take long
DAY_S = 86_400
UNBOUNDED = Attempts(10**9)


def token(claims: dict[str, Any], header: dict[str, Any] | None = None, secret: str = SECRET) -> str:
    """A token as this says, those that a library would not make included."""
    parts = [{"alg": "HS256", "typ": "JWT", **(header or {})}, {"sub": "canary", "exp": NOW + DAY_S, **claims}]
    text = b".".join(unpadded(json.dumps(part).encode()) for part in parts)
    return (text + b"." + unpadded(digest(secret.encode(), text, "sha256"))).decode()


def unpadded(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


MALFORMED = {
    "none": {},
    "empty": {"authorization": "Bearer "},
    "two spaces": {"authorization": "Bearer  canary"},
    "no scheme": {"authorization": "canary"},
    "basic": {"authorization": "Basic Y2FuYXJ5Og=="},
    "within": {"authorization": "Bearer canary canary"},
    "not ASCII": {"authorization": "Bearer canary-ключ".encode().decode("latin-1")},
    "latin-1": {"authorization": "Bearer canary\xe9"},
    "tab": {"authorization": "Bearer canary\tcanary"},
    "too long": {"authorization": "Bearer canary" + "k" * 513},
    "much too long": {"authorization": "Bearer canary" + "k" * 20_000},
    "an empty x-api-key": {"x-api-key": ""},
    "sql": {"x-api-key": "canary' OR 1=1 --"},
    "a good one second": {"authorization": "Basic canary", "x-api-key": "sk-good"},
}
WRONG = {
    "unknown": "canary-unknown",
    "a good one's beginning": "sk-goo",
    "a good one and more": "sk-good0",
    "other case": "SK-GOOD",
    "its digest": sha256(b"sk-good").hexdigest(),
    "a form of ours": "fb-0123456789abcdef-" + "c" * 43,
}
CLAIMS: dict[str, Any] = {
    "exp": [None, "1", NOW - 60, 1e300, -1, True, [NOW + 60]],
    "nbf": [NOW + DAY_S, "canary"],
    "aud": ["canary", ["canary"]],
    "sub": ["", "a b", 7, "canary\n", "c" * 129],
    "tenant": ["", "../canary", 7, "c" * 65, ["a"]],
    "scopes": [7, {"admin": 1}, [["admin"]]],
    "models": ["canary", [], [1], [""], {"m": 1}],
    "priority": [101, -101, 0.5, "1", True],
    "weight": [0, -1, "1", 1001, True],
    "limits": [5, [], "canary", {"tokens_per_hour": 5}]
    + [{"tokens_per_day": value} for value in (0, -1, "5", 1.5, True, 10**12 + 1, 10**30, [])],
}
TOKENS = {
    "another secret": token({}, secret="x" * 40),
    "no signature": token({}).rpartition(".")[0] + ".",
    "alg none": token({}, {"alg": "none"}),
    "alg RS256": token({}, {"alg": "RS256"}),
    "crit": token({}, {"crit": ["exp"]}),
    "kid is a path": token({}, {"kid": "../../etc/passwd", "alg": "ES256"}),
    "kid is an object": token({}, {"kid": {}}),
    "no JSON": "eyJ.eyJ.eyJ",
    "very long": "eyJ" + "a" * 7000 + ".b.c",
    "padded": token({}) + "==",
    **{f"{name} {value!r:.30}": token({name: value}) for name, values in CLAIMS.items() for value in values},
}


async def ask(raw: RawConnection, headers: dict[str, str], method: str = "POST", path: str = CHAT) -> Response:
    await raw.request(method, path, chat_body(max_tokens=2) if method == "POST" else b"", headers)
    return await raw.read_response(method)


async def refused(raw: RawConnection, headers: dict[str, str], code: str) -> None:
    """Everywhere, without an echo; and the next request on the connection is answered."""
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/admin/v1/keys")):
        answer = await ask(raw, headers, method, path)
        error = error_of(answer)
        assert (answer.status, error["type"], error["code"]) == (401, "invalid_request_error", code), path
        assert answer.header("www-authenticate") == "Bearer"
        assert len(answer.body) < 512
        assert "canary" not in answer.body.decode()
    assert (await ask(raw, GOOD)).status == 200


async def test_every_wrong_credential_is_refused_everywhere_and_shown_nowhere(
    database_url: str, database: Database, start_gateway: StartGateway
) -> None:
    store = Keys(database)
    (revoked, revoked_text), (rotated, rotated_text) = new_key(store), new_key(store)
    store.revoke(revoked.id, time())
    new_text = store.rotate(rotated.id, time())[1]
    _, ended = new_key(store, expires_at=datetime.now(UTC) + timedelta(milliseconds=50))
    wrong = {**WRONG, "revoked": revoked_text, "rotated": rotated_text, "expired": ended}
    flags: dict[str, Any] = {"database_url": SecretStr(database_url), "secret_key": SecretStr(SECRET)}
    flags |= {"admin_keys": ("sk-admin",), "failed_keys_per_minute": 10**6}
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=("sk-good",), **flags) as running:
        async with connect(running.url) as raw:
            assert (await ask(raw, {"authorization": f"Bearer {token({})}"})).status == 200
            for headers in MALFORMED.values():
                await refused(raw, headers, "invalid_api_key")
            keys = running.gateway.keys
            assert keys is not None
            assert (keys.found, keys.unknown, keys.failed) == (0, 0, 0)  # the database was never asked
            for text in wrong.values():
                await refused(raw, {"x-api-key": text}, "invalid_api_key")
            for name, text in TOKENS.items():
                assert len(text) < 8192, name
                await refused(raw, {"authorization": f"Bearer {text}"}, "invalid_token")
            assert (await ask(raw, {"x-api-key": new_text})).status == 200
        good = 2 + len(MALFORMED) + len(wrong) + len(TOKENS)
        assert len(engine.calls(CHAT)) == good
        assert running.gateway.pipeline.running == set()
        metrics = json.dumps(running.figures())
        shown = repr(running.gateway.keys) + repr(running.gateway.pipeline.auth) + repr(running.gateway.settings)
        await running.stop()
        for place in (running.log_file.read_text(), metrics, shown):
            for secret in (*wrong.values(), *TOKENS.values(), new_text, SECRET, "sk-good", "sk-admin", "canary-u"):
                assert secret not in place


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=2, max_size=2, unique=True), st.integers(0, 200))
def test_what_is_known_never_crosses_credentials_with_a_common_beginning(ends: list[bytes], common: int) -> None:
    """By digest of the whole; a cache by a part of it would mix them up (D6)."""
    known, (mine, theirs) = Known(16), (sha256(b"k" * common + end).digest() for end in ends)
    known.learn(mine, Principal("mine", "mine"), 0.0)
    assert known.get(theirs) is None
    known.learn(theirs, None, 0.0)
    assert not known.is_nobody(mine, 0.0)
    assert known.get(mine) == Principal("mine", "mine")


def test_tokens_that_differ_in_their_last_letters_only_are_never_taken_for_each_other() -> None:
    auth = Authenticator({}, tokens=Tokens(Settings(secret_key=SecretStr(SECRET)), UNLIMITED), attempts=UNBOUNDED)
    good = token({"pad": "x" * 300})
    assert auth.authenticate(f"Bearer {good}".encode(), None, NOW)
    for at in range(1, 40):
        other = good[:-at] + ("A" if good[-at] != "A" else "B") + good[len(good) - at + 1 :]
        with pytest.raises(Unauthorized):
            auth.authenticate(f"Bearer {other}".encode(), None, NOW)


def costs_alike(*ways: Callable[[int], Any]) -> bool:
    """Whether ways cost the same time: done in turns, and their medians compared, so that neither load nor a pause of
    the machine favours one of them. What an early end of a comparison saves shows as far more than this tolerates."""
    order, times = Random(1), [[0] * 0 for _ in ways]
    for number in range(3000):
        for which in order.sample(range(len(ways)), len(ways)):
            begun = perf_counter_ns()
            ways[which](number)
            times[which].append(perf_counter_ns() - begun)
    medians = [median(one) for one in times]
    return max(medians) < 1.25 * min(medians)


def test_a_configured_keys_beginning_takes_as_long_to_refuse_as_any_other_text() -> None:
    key = "sk-" + "0123456789abcdef" * 30  # as long as a key may be: what is compared letter by letter would show
    auth = Authenticator(
        {key: Principal("t", "k"), **{f"sk-{n}": Principal("t", "k") for n in range(50)}}, attempts=UNBOUNDED
    )

    def refuse(text: str) -> Callable[[int], None]:
        headers = [f"Bearer {text[:-4]}{number:04}".encode() for number in range(3000)]

        def way(number: int) -> None:
            with pytest.raises(Unauthorized):
                auth.authenticate(headers[number], None, 0.0)

        return way

    ways = refuse(key[:-4] + "zzzz"), refuse("x" * len(key)), refuse("x" + key[1:])
    assert any(costs_alike(*ways) for _ in range(3))


def test_a_known_ids_key_takes_as_long_to_refuse_as_an_unknown_ones(tmp_path: Any) -> None:
    database = made(f"sqlite:///{tmp_path}/keys.db")
    store = Keys(database)
    for _ in range(50):
        key, _ = new_key(store)
    directory = KeyDirectory(database, 16, UNLIMITED)
    auth = Authenticator({}, keys=directory, attempts=UNBOUNDED)

    def refuse(key_id: str) -> Callable[[int], None]:
        headers = [f"Bearer fb-{key_id}-{number:043}".encode() for number in range(9000)]
        asked = iter(headers)  # each but once: what was found to be nobody's is remembered

        def way(number: int) -> None:
            with pytest.raises(Unauthorized):
                auth.authenticate(next(asked), None, NOW)

        return way

    ways = refuse(key.id), refuse("0123456789abcdef")
    assert any(costs_alike(*ways) for _ in range(3))
    database.close()


def test_a_token_of_the_right_secret_says_no_more_of_a_wrong_signature_than_another() -> None:
    """The comparison of signatures is constant-time: one that is right up to its last byte gains nothing."""
    auth = Authenticator({}, tokens=Tokens(Settings(secret_key=SecretStr(SECRET)), UNLIMITED), attempts=UNBOUNDED)
    signed, _, signature = token({}).rpartition(".")

    def refuse(wrong: str) -> Callable[[int], None]:
        header = f"Bearer {signed}.{wrong}".encode()

        def way(number: int) -> None:
            with pytest.raises(Unauthorized):
                auth.authenticate(header, None, NOW)

        return way

    nearly = jwt.utils.base64url_encode(jwt.utils.base64url_decode(signature)[:-1] + b"\0").decode()
    ways = refuse(nearly), refuse(jwt.utils.base64url_encode(b"\0" * 32).decode())
    assert any(costs_alike(*ways) for _ in range(3))
