"""Callers with a token and callers with a key of the same tenant are held to the same limits, those of the database."""

from collections.abc import Callable
from time import time
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from forebay.policy.grants import Limits
from forebay.store.database import Database
from forebay.store.keys import Keys
from tests.gateway.calls import error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.store.databases import made, new_key
from tests.store.test_gateway import ask, turns
from tests.store.test_tokens import SECRET


@pytest.fixture
def flags(database_url: str, database: Database) -> dict[str, Any]:
    return {"database_url": SecretStr(database_url), "api_keys": (), "secret_key": SecretStr(SECRET)}


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "alice", "tenant": "acme", "exp": time() + 60, **claims}, SECRET, "HS256")


async def test_a_tenants_limits_are_one_account_for_its_keys_and_its_tokens(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    store = Keys(database)
    store.set_tenant("acme", Limits(requests_per_minute=4))
    _, secret = new_key(store)
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        callers = [token(), secret, token(sub="bob"), token(limits={"requests_per_minute": 100})]
        answers = [await ask(running, one) for one in callers]
        assert [answer.status for answer in answers] == [200] * 4
        assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["3", "2", "1", "0"]
        for one in callers:
            refused = await ask(running, one)
            assert refused.status == 429
            assert "4 requests per minute for this tenant" in error_of(refused)["message"]
        assert (await ask(running, token(tenant="other"))).status == 200


async def test_a_tenants_new_limits_hold_for_tokens_that_are_known_already(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        known = token()
        for _ in range(2):  # known from the second time on, where the tenant's limits were to be waited for
            assert (await ask(running, known)).header("x-ratelimit-limit-requests") is None
        Keys(database).set_tenant("acme", Limits(requests_per_minute=1))
        assert await turns(running, known, 429) < 2
        assert (await ask(running, token())).status == 429


async def test_what_a_tenant_has_no_limit_for_is_the_settings(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    Keys(database).set_tenant("acme", Limits(concurrency=7))
    limits = {"requests_per_minute": 2, "concurrency": 1}
    async with FakeEngine() as engine, start_gateway(engine.url, tenant_limits=limits, **flags) as running:
        assert [(await ask(running, token())).status for _ in range(3)] == [200, 200, 429]
        binding = running.gateway.local_limits._of_keys["jwt-alice"]
        assert [(one.name, one.most_running) for one in binding.accounts] == [("tenant:acme", 7)]


async def test_without_the_database_tokens_of_known_tenants_go_on(
    postgres: str, cut_postgres: Callable[[bool], None], start_gateway: StartGateway
) -> None:
    database = made(postgres)
    Keys(database).set_tenant("acme", Limits(requests_per_minute=100))
    database.close()
    flags = {"api_keys": (), "secret_key": SecretStr(SECRET), "database_url": postgres, "database_timeout_s": 2.0}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        assert (await ask(running, token())).status == 200
        cut_postgres(True)
        for _ in range(2):
            refused = await ask(running, token(tenant="other"))
            assert (refused.status, error_of(refused)["code"]) == (503, "keys_unavailable")
            fresh = await ask(running, token(jti=str(time())))
            assert (fresh.status, fresh.header("x-ratelimit-limit-requests")) == (200, "100")
        cut_postgres(False)
        await turns(running, token(tenant="other"), 200)
