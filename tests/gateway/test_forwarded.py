"""Behind proxies: what the gateway takes for the client's address, where it matters."""

from typing import Any

import pytest

from tests.gateway.calls import CHAT, chat_body
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import connect, fetch

ONE_EACH: dict[str, Any] = {"api_keys": (), "address_limits": {"requests_per_minute": 1}}


async def statuses(url: str, *told: str) -> list[int]:
    """Of requests on one connection, as a proxy sends them."""
    found = []
    async with connect(url) as raw:
        for one in told:
            await raw.request("POST", CHAT, chat_body(), {"x-forwarded-for": one})
            found.append((await raw.read_response("POST")).status)
    return found


async def test_each_client_behind_a_proxy_has_limits_of_its_own(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **ONE_EACH, trusted_proxies=("127.0.0.1",)) as running:
        told = ("203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.113.2", "203.0.113.3")
        assert await statuses(running.url, *told) == [200, 200, 429, 429, 200]
        await running.stop()
        lines = [line["client"] for line in running.log_lines() if line["message"] == "request"]
        assert lines == list(told)


async def test_what_a_caller_says_who_is_no_proxy_changes_nothing(start_gateway: StartGateway) -> None:
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, **ONE_EACH, trusted_proxies=("10.0.0.0/8",)) as running,
    ):
        assert await statuses(running.url, "203.0.113.1", "203.0.113.2") == [200, 429]


@pytest.mark.parametrize("path", ["/generate", "/v1/models"])
async def test_so_it_is_for_what_is_not_relayed(path: str, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **ONE_EACH, trusted_proxies=("127.0.0.1",)) as running:
        if path == "/generate":
            for told in ("203.0.113.1", "203.0.113.2"):
                answer = await fetch(running.url, "POST", path, {"prompt": "x"}, x_forwarded_for=told)
                assert answer.status == 200
        else:
            assert (await fetch(running.url, "GET", path, x_forwarded_for="203.0.113.1")).status == 200
