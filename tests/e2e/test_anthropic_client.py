"""The official Anthropic client against the real engine, through Forebay."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.e2e.conftest import KEY, MODEL, Service

pytestmark = pytest.mark.engine

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]

GREEDY = {"temperature": 0}


@pytest.fixture
def client(service: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=service.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def test_a_message_is_answered(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=24, messages=MESSAGES, extra_body=GREEDY)
    block: Any = message.content[0]
    assert "Paris" in block.text
    assert message.usage.output_tokens > 0


def test_a_message_streams(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=16, messages=MESSAGES, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        assert text
        assert stream.get_final_message().stop_reason in ("end_turn", "max_tokens")


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens > 5


def test_errors_have_their_own_form(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="claude-9", max_tokens=4, messages=MESSAGES)
    body: Any = unknown.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
