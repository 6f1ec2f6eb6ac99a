"""Requests that most gateway tests send."""

from typing import Any

from tests.gateway.raw_client import Response, fetch

CHAT = "/v1/chat/completions"
AUTH = {"authorization": "Bearer sk-test"}
MESSAGES = [{"role": "user", "content": "hello"}]


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "fake-model", "messages": MESSAGES, **fields}


async def chat(url: str, **fields: Any) -> Response:
    """One chat completion on a connection of its own."""
    return await fetch(url, "POST", CHAT, chat_body(**fields), **AUTH)


def error_of(response: Response) -> dict[str, Any]:
    """The error object of an answer, which must be in OpenAI's form."""
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert isinstance(error["code"], str)
    return error
