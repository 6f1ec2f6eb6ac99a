"""C14: no request makes an engine, or the gateway, call an address that it names."""

import asyncio
from typing import Any

import pytest

from tests.gateway.calls import AUTH, CHAT, chat, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch


def looks_at(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


async def test_an_address_reaches_no_engine_and_nobody_calls_it(start_gateway: StartGateway) -> None:
    called: list[str] = []
    server = await asyncio.start_server(lambda reader, writer: called.append("called"), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, FakeEngine() as engine, start_gateway(engine.url) as running:
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "a@127.0.0.1"):
            answer = await chat(running.url, messages=looks_at(f"http://{host}:{port}/"))
            error = error_of(answer)
            assert (answer.status, error["code"], error["param"]) == (400, "unsupported_media_url", "messages[0]")
        anthropic = {"type": "image", "source": {"type": "url", "url": f"http://127.0.0.1:{port}/"}}
        body = {"model": "fake-model", "max_tokens": 1, "messages": [{"role": "user", "content": [anthropic]}]}
        answer = await fetch(running.url, "POST", "/v1/messages", body, **AUTH)
        assert (answer.status, answer.json()["type"]) == (400, "error")
        assert [record.path for record in engine.requests if record.method == "POST"] == []
        assert called == []


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "https://images.test/a.png"])
async def test_what_is_allowed_reaches_the_engine_as_it_is(url: str, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, media_hosts=("images.test",)) as running:
        assert (await chat(running.url, messages=looks_at(url))).status == 200
        assert engine.calls(CHAT)[0].body["messages"] == looks_at(url)
