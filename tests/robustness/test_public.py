"""D1: what who has no key learns, and by what tricks one gets in without: none."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.store.keys import Keys
from tests.gateway.calls import AUTH
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch
from tests.store.databases import made, new_key

HEALTH = ("/health", "/healthz", "/livez")
READY = ("/health/ready", "/ready", "/readyz")
ENGINE = "http://127.0.0.1:9"
ADMIN = {"authorization": "Bearer sk-admin"}


@pytest.mark.parametrize("path", HEALTH)
async def test_health_tells_who_has_no_key_the_state_and_nothing_else(start_gateway: StartGateway, path: str) -> None:
    async with start_gateway(ENGINE, ready=False, admin_keys=("sk-admin",)) as running:
        for headers in ({}, {"authorization": "Bearer sk-wrong"}, {"authorization": "nonsense"}):
            answer = await fetch(running.url, "GET", path, None, **headers)
            assert (answer.status, answer.json()) == (200, {"status": "degraded", "ready": False})
        for headers in (AUTH, ADMIN):
            told = (await fetch(running.url, "GET", path, None, **headers)).json()
            assert told["replicas"][0]["name"] == ENGINE
            assert told["version"]


@pytest.mark.parametrize("path", READY)
async def test_who_has_no_key_learns_that_it_is_not_ready_but_not_of_which_engine(
    start_gateway: StartGateway, path: str
) -> None:
    async with start_gateway(ENGINE, ready=False) as running:
        answer = await fetch(running.url, "GET", path)
        assert (answer.status, answer.json()) == (503, {"status": "not ready"})
        assert answer.header("retry-after") == "2"
        assert ENGINE in (await fetch(running.url, "GET", path, None, **AUTH)).json()["reason"]


@pytest.mark.parametrize(
    ("flags", "open_to_all"),
    [
        ({}, False),
        ({"metrics_port_public": True}, True),
        ({"metrics_public": True}, True),
        ({"api_keys": ()}, True),
    ],
)
async def test_details_are_open_just_where_the_metrics_are(
    start_gateway: StartGateway, flags: dict[str, Any], open_to_all: bool
) -> None:
    async with start_gateway(ENGINE, ready=False, metrics_port=0, **flags) as running:
        for path, status in (("/metrics", 200 if open_to_all else 401), ("/health", 200)):
            answer = await fetch(running.metrics_url, "GET", path)
            assert answer.status == status
        assert ("replicas" in answer.json()) == open_to_all
        main = (await fetch(running.url, "GET", "/health")).json()
        assert ("replicas" in main) == (open_to_all and "metrics_port_public" not in flags)


async def test_a_key_for_inference_alone_sees_no_more_of_health_than_of_the_metrics(
    database_url: str, start_gateway: StartGateway
) -> None:
    database = made(database_url)
    secret = new_key(Keys(database), scopes=["inference"])[1]
    database.close()
    async with start_gateway(ENGINE, ready=False, database_url=SecretStr(database_url)) as running:
        for _ in range(2):  # looked up, and known
            answer = await fetch(running.url, "GET", "/health", None, x_api_key=secret)
            assert answer.json() == {"status": "degraded", "ready": False}
        assert (await fetch(running.url, "GET", "/metrics", None, x_api_key=secret)).status == 403


async def test_probing_health_without_a_key_for_ever_counts_as_no_attempt(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, failed_keys_per_minute=1) as running:
        for _ in range(5):
            assert (await fetch(running.url, "GET", "/livez")).status == 200
        assert (await fetch(running.url, "GET", "/v1/models", None, x_api_key="sk-wrong")).status == 401
        assert json.loads((await fetch(running.url, "GET", "/livez")).body) == {"status": "ok", "ready": True}
