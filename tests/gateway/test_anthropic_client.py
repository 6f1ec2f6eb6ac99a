"""What the official Anthropic client makes of answers and errors: its request id comes from `request-id` alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest

from tests.gateway.calls import AUTH, MESSAGES
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine
from tests.gateway.raw_client import fetch

ASK: dict[str, Any] = {"model": "fake-model", "max_tokens": 4, "messages": MESSAGES}
NAMED = {"x-request-id": "named-by-the-caller"}


@asynccontextmanager
async def a_client(running: Running, key: str = "sk-test") -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key=key, max_retries=0, timeout=30) as client:
        yield client


async def test_whole_and_streamed_messages_carry_their_request_id(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, a_client(running) as client:
        message = await client.messages.create(**ASK, extra_headers=NAMED)
        assert message._request_id == "named-by-the-caller"
        async with client.messages.stream(**ASK, extra_headers=NAMED) as stream:
            assert (await stream.get_final_message()).usage.output_tokens == 4
            assert stream.request_id == "named-by-the-caller"


async def test_an_error_inside_a_stream_carries_it_too(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, a_client(running) as client:
        engine.script(Behaviour(error_after=2, token_delay_s=0.02))
        async with client.messages.stream(**ASK, extra_headers=NAMED) as stream:
            with pytest.raises(anthropic.APIStatusError) as error:
                await stream.get_final_message()
        assert error.value.request_id == "named-by-the-caller"


@pytest.mark.parametrize(
    ("key", "changes", "status", "kind"),
    [
        ("sk-wrong", {}, 401, "authentication_error"),
        ("sk-test", {"model": "other"}, 404, "not_found_error"),
        ("sk-test", {"system": "x" * 9000}, 413, "request_too_large"),
    ],
)
async def test_a_refusal_is_in_its_form_and_carries_its_request_id(
    key: str, changes: dict[str, Any], status: int, kind: str, start_gateway: StartGateway
) -> None:
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, max_body_bytes=4096) as running,
        a_client(running, key) as client,
    ):
        with pytest.raises(anthropic.APIStatusError) as error:
            await client.messages.create(**ASK | changes)
    body: Any = error.value.body
    assert (error.value.status_code, body["error"]["type"]) == (status, kind)
    assert error.value.request_id == body["request_id"]
    assert error.value.request_id


async def test_what_is_not_offered_below_messages_is_refused_in_its_form(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, a_client(running) as client:
        with pytest.raises(anthropic.NotFoundError) as error:
            await client.messages.batches.list()
        assert error.value.request_id


async def test_other_answers_keep_to_openais_header(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        answer = await fetch(running.url, "GET", "/v1/models", **AUTH)
        assert answer.header("x-request-id")
        assert answer.header("request-id") is None
