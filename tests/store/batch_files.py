"""Batches as the official client sends them."""

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI

from tests.gateway.calls import CHAT, MESSAGES


def request_line(number: int, **fields: Any) -> dict[str, Any]:
    body = {"model": "fake-model", "messages": MESSAGES, "max_tokens": 1 + number % 5, **fields}
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def begun(client: AsyncOpenAI, *lines: Any, window: Any = "24h", **more: Any) -> Any:
    """A batch of these lines."""
    file = await client.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=window, **more)


async def ended(client: AsyncOpenAI, batch_id: str, within_s: float = 45.0) -> Any:
    """The batch, once it is over."""
    async with asyncio.timeout(within_s):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in ("completed", "failed", "expired", "cancelled"):
                return batch
            await asyncio.sleep(0.02)


async def written(client: AsyncOpenAI, file_id: str | None) -> list[Any]:
    """What is in a file that a batch made."""
    if file_id is None:
        return []
    return [json.loads(line) for line in (await client.files.content(file_id)).content.splitlines()]
