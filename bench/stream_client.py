"""Many concurrent SSE chat streams against one base port; prints chunks/s, TTFT and gaps between reads.

usage: stream_client.py PORT CONCURRENCY TOTAL [KEY] [MODEL]        (needs uvloop)
"""

import asyncio
import json
import sys
import time

import uvloop

PORT, CONCURRENCY, TOTAL = (int(a) for a in sys.argv[1:4])
KEY = sys.argv[4] if len(sys.argv) > 4 else "sk-x"
MODEL = sys.argv[5] if len(sys.argv) > 5 else "m"
BODY = json.dumps(
    {
        "model": MODEL,
        "stream": True,
        "max_tokens": 100,
        "messages": [
            {"role": "system", "content": "You are helpful. " * 15},
            {"role": "user", "content": "Tell me a story about a fox. " * 8},
        ],
    }
).encode()
REQUEST = (
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
).encode() + BODY


async def one(reader, writer):
    start = last = time.perf_counter()
    writer.write(REQUEST)
    chunks, ttft, gaps, tail = 0, None, [], b""
    while not tail.endswith(b"0\r\n\r\n"):
        data = await reader.read(65536)
        if not data:
            raise EOFError("the stream was cut")
        now = time.perf_counter()
        if not chunks and b"HTTP/1.1 200" not in data[:16] and b"data: {" not in data:
            raise RuntimeError(data[:200].decode(errors="replace"))
        found = data.count(b"data: {")
        if found and ttft is None:
            ttft = now - start
        elif found:
            gaps.append(now - last)
        last, chunks, tail = now, chunks + found, (tail + data)[-16:]
    return ttft, chunks, gaps


async def main():
    work, done, errors = iter(range(TOTAL)), [], []

    async def worker():
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        for _ in work:
            try:
                done.append(await asyncio.wait_for(one(reader, writer), 120))
            except (OSError, EOFError, RuntimeError, TimeoutError) as error:
                errors.append(repr(error))
                reader, writer = await asyncio.open_connection("127.0.0.1", PORT)

    start = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(CONCURRENCY)])
    took = time.perf_counter() - start
    if not done:
        sys.exit(f"no stream ended well: {errors[:3]}")
    ttft = sorted(d[0] for d in done)
    gaps = sorted(g for d in done for g in d[2]) or [0]
    print(
        json.dumps(
            {
                "streams": len(done),
                "errors": len(errors),
                "chunks_per_s": round(sum(d[1] for d in done) / took),
                "ttft_p50_ms": round(ttft[len(ttft) // 2] * 1e3, 2),
                "ttft_p99_ms": round(ttft[int(len(ttft) * 0.99)] * 1e3, 2),
                "gap_p99_ms": round(gaps[int(len(gaps) * 0.99)] * 1e3, 2),
                **({"first_error": errors[0]} if errors else {}),
            }
        )
    )
    sys.exit(1 if errors else 0)


uvloop.run(main())
