"""What does the gateway cost in front of a real engine? Tokens/s and time to first token, direct and through, in turns.

usage: engine.py DIRECT_URL THROUGH_URL MODEL [--key KEY] [--streams 8] [--tokens 128] [--rounds 5]

A URL is http://host:port or unix:///path. Every stream is greedy and ignores the end of text, so that both sides
generate the same number of tokens; how many they were is read from each stream's usage.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from urllib.parse import urlsplit


async def stream(url: str, request: bytes) -> tuple[float, int]:
    """One stream: seconds to the first token, and tokens in all."""
    parts = urlsplit(url)
    start = time.perf_counter()
    if parts.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(parts.path)
    else:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    first, told = 0.0, b""
    while not told.endswith(b"0\r\n\r\n"):
        data = await reader.read(65536)
        if not data:
            raise EOFError("the stream was cut")
        told += data
        if not told.startswith(b"HTTP/1.1 200"[: len(told)]):
            raise RuntimeError(told[:300])
        if not first and b"data: {" in told:
            first = time.perf_counter() - start
    writer.close()
    return first, tokens_in(told)


def tokens_in(told: bytes) -> int:
    """The number of tokens that a stream's usage tells, which comes last. (What a model writes has no bare quotes.)"""
    counts = re.findall(rb'"completion_tokens":\s*(\d+)', told)
    if not counts:
        raise RuntimeError(f"the stream tells no usage: {told[-300:]!r}")
    return int(counts[-1])


async def round_of(url: str, request: bytes, streams: int) -> tuple[float, float]:
    """Tokens/s over all streams, and the median time to first token."""
    start = time.perf_counter()
    done = await asyncio.gather(*[stream(url, request) for _ in range(streams)])
    took = time.perf_counter() - start
    return sum(tokens for _, tokens in done) / took, statistics.median(first for first, _ in done)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direct")
    parser.add_argument("through")
    parser.add_argument("model")
    parser.add_argument("--key", default="none")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    body = json.dumps(
        {
            "model": options.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "ignore_eos": True,
            "max_tokens": options.tokens,
            "messages": [{"role": "user", "content": "Tell me a story about a river."}],
        }
    ).encode()
    head = f"authorization: Bearer {options.key}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    request = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode() + body
    urls = {"direct": options.direct, "through": options.through}
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
    for url in urls.values():
        await round_of(url, request, options.streams)  # warm-up
    for number in range(options.rounds):
        for name in sorted(urls, reverse=bool(number % 2)):  # A B, B A, …: drift falls on both
            figures[name].append(await round_of(urls[name], request, options.streams))
    rate = {name: statistics.median(one[0] for one in rounds) for name, rounds in figures.items()}
    ttft = {name: statistics.median(one[1] for one in rounds) * 1e3 for name, rounds in figures.items()}
    for name in urls:
        print(f"{name}: {rate[name]:.1f} tokens/s, TTFT p50 {ttft[name]:.1f} ms")
    share, added = rate["through"] / rate["direct"], ttft["through"] - ttft["direct"]
    print(f"through/direct: {share:.1%} of tokens/s, TTFT p50 {added:+.1f} ms")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
