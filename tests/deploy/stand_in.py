"""A page of metrics that no gateway in a test has: GPUs', vLLM's, an agent's. Counters grow from scrape to scrape."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from forebay.telemetry.catalogue import Metric


def page(metrics: Sequence[Metric], scrape: int) -> str:
    """Each metric with one series, as the catalogue declares it."""
    return "".join(line for metric in metrics for line in _lines(metric, scrape))


def _lines(metric: Metric, scrape: int) -> list[str]:
    labels = [f'{label}="x"' for label in metric.labels]
    told = f"# TYPE {metric.name} {metric.kind}\n"
    if metric.kind != "histogram":
        value = scrape if metric.kind == "counter" else 1
        return [told, f"{metric.name}{{{','.join(labels)}}} {value}\n"]
    bounds = [*map(str, metric.buckets), "+Inf"]
    buckets = [f'{metric.name}_bucket{{{",".join([*labels, f"""le="{le}" """.strip()])}}} {scrape}\n' for le in bounds]
    return [told, *buckets, *(f"{metric.name}_{end}{{{','.join(labels)}}} {scrape}\n" for end in ("sum", "count"))]


@asynccontextmanager
async def stand_in(metrics: Sequence[Metric]) -> AsyncIterator[str]:
    """Serve the page; its URL."""
    scrapes = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal scrapes
        await reader.readuntil(b"\r\n\r\n")
        scrapes += 1
        body = page(metrics, scrapes).encode()
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
