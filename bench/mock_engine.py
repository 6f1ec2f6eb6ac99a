"""A mock OpenAI engine that costs almost nothing, for measuring what stands in front of it.

usage: mock_engine.py PORT        (needs uvloop)

POST with "stream": true  -> N SSE chunks of a realistic vLLM chunk (with token ids where they are asked for), then
[DONE]; any other POST -> one JSON answer.
GET /v1/models, /metrics, /health answer too. Environment: N (chunks, 100), GAP_MS (pause between chunks, 0).
It parses no JSON and checks nothing: it is a load target, not a test double.
"""

import asyncio
import json
import os
import sys

import uvloop

PORT = int(sys.argv[1])
CHUNKS = int(os.environ.get("N", "100"))
GAP_S = float(os.environ.get("GAP_MS", "0")) / 1e3


def answer(body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def http_chunk(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n" % len(event) + event + b"\r\n"


COMPLETION = answer(
    json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "Hello there, how can I help you today?"},
                }
            ],
            "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
        }
    ).encode()
)
MODELS = answer(b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"mock"}]}')
METRICS = answer(b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n", "text/plain")
EMPTY = answer(b"{}")
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def token(choice: dict) -> bytes:
    choice = {"index": 0, "delta": {"content": " hello"}, "logprobs": None, "finish_reason": None, **choice}
    return http_chunk(
        json.dumps(
            {
                "id": "chatcmpl-b301c05732d802a4",
                "object": "chat.completion.chunk",
                "created": 1795225238,
                "model": "m",
                "choices": [choice],
            },
            separators=(",", ":"),
        ).encode()
    )


TOKEN, TOKEN_WITH_ID = token({"token_ids": None}), token({"token_ids": [23871]})
STOP = http_chunk(
    json.dumps(
        {
            "id": "chatcmpl-b301c05732d802a4",
            "object": "chat.completion.chunk",
            "created": 1795225238,
            "model": "m",
            "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
        }
    ).encode()
)
USAGE = http_chunk(
    json.dumps(
        {
            "id": "chatcmpl-b301c05732d802a4",
            "object": "chat.completion.chunk",
            "created": 1795225238,
            "model": "m",
            "choices": [],
            "usage": {"prompt_tokens": 20, "completion_tokens": CHUNKS, "total_tokens": 20 + CHUNKS},
        }
    ).encode()
)
STREAM_END = http_chunk(b"[DONE]") + b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            path = self.buffer[:end].split(b" ", 2)[1]
            self.buffer = self.buffer[end + 4 + length :]
            self.respond(path, body)

    def respond(self, path, body):
        if b'"stream":true' in body or b'"stream": true' in body:
            self.task = asyncio.ensure_future(self.stream(b"include_usage" in body, b'"return_token_ids":true' in body))
        elif body:
            self.transport.write(COMPLETION)
        elif path.startswith(b"/v1/models"):
            self.transport.write(MODELS)
        elif path.startswith(b"/metrics"):
            self.transport.write(METRICS)
        else:
            self.transport.write(EMPTY)

    async def stream(self, usage, ids):
        write, event = self.transport.write, TOKEN_WITH_ID if ids else TOKEN
        write(STREAM_HEAD)
        for i in range(CHUNKS):
            if GAP_S:
                await asyncio.sleep(GAP_S)
            elif i % 10 == 9:
                await asyncio.sleep(0)
            if self.transport.is_closing():
                return
            write(event)
        write(STOP + (USAGE if usage else b"") + STREAM_END)


async def main():
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", PORT, backlog=4096)
    await server.serve_forever()


uvloop.run(main())
