"""Tokens (JWT) through a real gateway, with a secret and with key sets in a file and behind a URL."""

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from pydantic import SecretStr

from forebay.config.settings import Settings
from forebay.policy.auth import UNLIMITED, Authenticator
from forebay.refusals import Unauthorized
from forebay.store import tokens
from forebay.store.tokens import KeySet, KeySetError, Tokens
from tests.gateway.calls import CHAT, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import Response, fetch

SECRET = "0123456789abcdef0123456789abcdef"


class Issuer:
    """Who signs tokens: an HTTP server with a key set, which may fail, and counts how often it is asked."""

    def __init__(self) -> None:
        self.keys = {"one": ec.generate_private_key(ec.SECP256R1())}
        self.asked = 0
        self.status = 200
        self.body: bytes | None = None

    async def __aenter__(self) -> "Issuer":
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/keys?v=1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /keys?v=1 HTTP/1.1\r\n")
        self.asked += 1
        body = self.body if self.body is not None else self.key_set()
        writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (self.status, len(body)))
        writer.write(body)
        await writer.drain()
        writer.close()

    def key_set(self) -> bytes:
        listed = [{**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid} for kid, key in self.keys.items()]
        return json.dumps({"keys": listed}).encode()

    def token(self, kid: str = "one", **claims: Any) -> str:
        made = {"sub": "acme", "exp": time() + 60, **claims}
        return jwt.encode(made, self.keys[kid], "ES256", headers={"kid": kid})


async def ask(running: Running, token: str) -> Response:
    return await fetch(running.url, "POST", CHAT, chat_body(), authorization=f"Bearer {token}")


async def told(running: Running, token: str) -> tuple[int, str]:
    answer = await ask(running, token)
    return answer.status, "" if answer.status == 200 else error_of(answer)["code"]


async def test_a_token_signed_with_the_secret_opens_what_it_says(start_gateway: StartGateway) -> None:
    def token(**claims: Any) -> str:
        return jwt.encode({"sub": "acme", "exp": time() + 60, **claims}, SECRET, "HS256")

    async with FakeEngine() as engine, start_gateway(engine.url, secret_key=SecretStr(SECRET)) as running:
        good = token()
        for _ in range(2):
            assert await told(running, good) == (200, "")
        assert await told(running, "sk-test") == (200, "")
        assert await told(running, token(models=["another"])) == (404, "model_not_found")
        assert await told(running, token(scopes=["metrics"])) == (403, "missing_scope")
        assert await told(running, token(exp=time() - 60)) == (401, "invalid_token")
        assert await told(running, good[:-2] + ("AA" if good[-2:] != "AA" else "BB")) == (401, "invalid_token")
        assert await told(running, jwt.encode({"sub": "a", "exp": time() + 60}, "x" * 32, "HS256")) == (
            401,
            "invalid_token",
        )
        assert await told(running, "eyJ" + "a" * 9000 + ".b.c") == (401, "invalid_api_key")


async def test_a_verified_token_is_known_until_it_expires_and_no_longer() -> None:
    source = Tokens(Settings(secret_key=SecretStr(SECRET), jwt_leeway_s=0), UNLIMITED)
    now = 1000.0
    first, second = (
        jwt.encode({"sub": name, "exp": now + 10, "pad": "same " * 50}, SECRET, "HS256").encode() for name in "ab"
    )
    assert first[:40] == second[:40]
    auth = Authenticator({}, tokens=source)
    for _ in range(2):
        assert [auth.authenticate(b"Bearer " + one, None, now).tenant for one in (first, second)] == ["a", "b"]  # type: ignore[union-attr]
    assert source.known.get(sha256(first).digest()) is not None
    with pytest.raises(Unauthorized):
        auth.authenticate(b"Bearer " + first, None, now + 10)


async def test_keys_of_a_set_come_go_and_stand_while_it_cannot_be_read(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "AT_MOST_EVERY_S", 0.2)
    async with Issuer() as issuer, FakeEngine() as engine:
        async with start_gateway(engine.url, api_keys=(), jwks=issuer.url) as running:
            assert await told(running, issuer.token()) == (200, "")
            issuer.keys["two"] = ec.generate_private_key(ec.SECP256R1())
            await asyncio.sleep(0.25)  # as long as it may not be asked again
            assert await told(running, issuer.token("two")) == (200, "")
            asked = issuer.asked
            issuer.keys["three"] = ec.generate_private_key(ec.SECP256R1())
            unknown = [issuer.token("three", n=number) for number in range(20)]
            del issuer.keys["three"]
            assert {await told(running, token) for token in unknown} == {(401, "invalid_token")}
            assert issuer.asked - asked <= 2
            for issuer.status, issuer.body in (
                (500, b""),
                (200, b"<html>"),
                (200, b" " * 300_000),
                (200, b'{"keys":[]}'),
            ):
                await asyncio.sleep(0.25)
                gone = jwt.encode({"sub": "a", "exp": time() + 60}, issuer.keys["one"], "ES256", headers={"kid": "x"})
                assert await told(running, gone) == (401, "invalid_token")
                assert await told(running, issuer.token(n=issuer.asked)) == (200, "")
            assert running.figures()["forebay_key_set_failures_total"] >= 4
            await running.stop()
            lines = [line for line in running.log_lines() if "key set" in line["message"]]
            assert len(lines) == 1


async def test_while_a_key_set_was_never_read_callers_are_told_to_wait(start_gateway: StartGateway) -> None:
    async with Issuer() as issuer, FakeEngine() as engine:
        issuer.status = 503
        async with start_gateway(engine.url, api_keys=(), jwks=issuer.url) as running:
            assert await told(running, issuer.token()) == (503, "keys_unavailable")


async def test_a_key_set_in_a_file_is_read_at_the_start(start_gateway: StartGateway, tmp_path: Path) -> None:
    issuer = Issuer()
    (tmp_path / "keys.json").write_bytes(issuer.key_set())
    async with FakeEngine() as engine:
        async with start_gateway(engine.url, api_keys=(), jwks=str(tmp_path / "keys.json")) as running:
            assert await told(running, issuer.token()) == (200, "")
            hs256 = jwt.encode({"sub": "a", "exp": time() + 60}, "x" * 32, "HS256", headers={"kid": "one"})
            assert await told(running, hs256) == (401, "invalid_token")


@pytest.mark.parametrize(
    "where", ["/none", "ftp://h/x", "http://example.com/keys", "https://user:pw@h/x", "https://h/\r\nx: y", "file:///x"]
)
def test_a_key_set_that_cannot_be_one_is_refused_at_the_start(where: str) -> None:
    with pytest.raises(KeySetError):
        KeySet(where, ("ES256",), None)
