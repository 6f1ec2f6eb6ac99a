"""A gateway in this process, and a client that notes when the first token came. For benchmarks of what the gateway
decides, not of how fast it is: the load stays far below what one core can do."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from forebay.config.sources import load_settings
from forebay.gateway.build import Gateway
from forebay.gateway.listener import GatewayServer
from forebay.listening import listen
from forebay.replicas.discovery.named import discovery_sources
from forebay.telemetry.logging import LogWriter


@dataclass(frozen=True)
class Answer:
    """What came of one request: seconds since it was sent, and the tokens of its answer by the engine's count."""

    key: str
    status: int
    first_s: float
    took_s: float
    tokens: int
    body: bytes


@asynccontextmanager
async def gateway(upstream: str, keys: tuple[str, ...], **flags: Any) -> AsyncIterator[tuple[str, Gateway]]:
    """A gateway that serves, with its engine ready, and its address."""
    settings, _ = load_settings({"upstream": (upstream,), "api_keys": keys, "port": 0, **flags}, env={})
    descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = LogWriter(descriptor, text=False)
    writer.start()
    sock = listen(settings.host, 0)
    one = Gateway(settings, writer, sources=discovery_sources(settings))
    server = GatewayServer(one)
    serving = asyncio.create_task(server.serve([sock]))
    while not one.replicas.ready:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", one
    finally:
        server.stop()
        await serving
        writer.stop()
        os.close(descriptor)


def chat(key: str, model: str, tokens: int, prompt: str = "Tell me a story about a river.", headers: str = "") -> bytes:
    """A streamed, greedy chat of so many tokens."""
    body = json.dumps(
        {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "ignore_eos": True,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": prompt}],
        }
    ).encode()
    lines = f"authorization: Bearer {key}\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}"
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body
    )


async def ask(url: str, key: str, request: bytes, came: Callable[[int], None] = lambda events: None) -> Answer:
    """Send it on a connection of its own, and read the answer to its end; `came` is told of events as they come."""
    began, first_s, told = perf_counter(), 0.0, b""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(request)
        while data := await reader.read(65536):
            told += data
            came(data.count(b"data: {"))
            if not first_s and b"data: {" in told:
                first_s = perf_counter() - began
    finally:
        writer.close()
    counts = re.findall(rb'"completion_tokens":\s*(\d+)', told)
    status = int(told[9:12])
    return Answer(key, status, first_s, perf_counter() - began, int(counts[-1]) if counts else 0, told)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else float("nan")
