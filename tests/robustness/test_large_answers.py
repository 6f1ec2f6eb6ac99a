"""An answer of the largest size, embeddings by the thousand, holds up nobody else's request.

The gateway alone is in the test's event loop: its engine and its caller are processes, for they take longer.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from forebay.wire.usage import DECODED_BYTES, read_answer, usage_of
from tests.gateway.command import serving
from tests.gateway.conftest import KEY, StartGateway
from tests.robustness.lag import watched_loop

HELD_UP_S = 0.05
ENGINE = """
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VECTOR = json.dumps([0.123456789012345678] * 1024).encode()
WHOLE = {vectors}, {usage!r}

class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(b'{{"object":"list","data":[{{"id":"m","object":"model"}}]}}')

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        count, usage = WHOLE
        vectors = b",".join(b'{{"object":"embedding","index":%d,"embedding":%s}}' % (n, VECTOR) for n in range(count))
        self.answer(b'{{"object":"list","data":[' + vectors + b'],"model":"m","usage":' + usage + b"}}")

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
print(f"http://127.0.0.1:{{server.server_port}}", flush=True)
server.serve_forever()
"""
CALLER = """
import json, sys
from urllib.request import Request, urlopen

url, key = sys.argv[1:]
headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
for _ in range(3):
    answer = urlopen(Request(url + "/v1/embeddings", b'{"model":"m","input":"a"}', headers), timeout=60).read()
told = json.loads(answer)
print(len(answer), len(told["data"]), told["usage"]["prompt_tokens"])
"""


@asynccontextmanager
async def engine(vectors: int, usage: bytes) -> AsyncIterator[str]:
    program = ENGINE.format(vectors=vectors, usage=usage)
    async with serving(sys.executable, "-c", program, env={}) as (_, url):
        yield url


@pytest.mark.parametrize("vectors", [600, 2500], ids=["decoded", "too large to be decoded"])
async def test_a_large_answer_holds_nobody_up_and_comes_whole(vectors: int, start_gateway: StartGateway) -> None:
    usage = b'{"prompt_tokens":4711,"total_tokens":4711}'
    async with engine(vectors, usage) as url, start_gateway(url) as running:
        times = []
        for _ in range(3):
            async with watched_loop() as lag:
                caller = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CALLER, running.url, KEY, stdout=PIPE
                )
                out, _ = await caller.communicate()
            size, count, prompt = map(int, out.split())
            assert (count, prompt) == (vectors, 4711)
            assert (size > DECODED_BYTES) == (vectors > 1000)
            times.append(lag.worst_s)
        print([f"{one * 1e3:.1f} ms" for one in times], f"{size / 1e6:.0f} MB")
        assert min(times) < HELD_UP_S
        assert running.figures()['forebay_prompt_tokens_total{endpoint="embeddings",model="m"}'] == 9 * 4711


def test_of_an_answer_too_large_to_be_decoded_the_ends_are_read() -> None:
    def answer(end: str) -> bytes:
        return b'{"data":["' + b"x" * DECODED_BYTES + b'\\"usage\\":{"prompt_tokens":1}"]' + end.encode()

    for usage in ({"prompt_tokens": 7, "completion_tokens": 3}, {"input_tokens": 7, "output_tokens": 3}):
        told = read_answer(answer(f', "usage": {json.dumps(usage)}, "metrics": null}}'))
        assert told is not None
        counts = usage_of(told)
        assert counts is not None
        assert (counts.prompt_tokens, counts.completion_tokens) == (7, 3)
    for end in (
        "}",
        ',"usage":null}',
        ',"usage":{"prompt_tokens":"many"}}',
        ',"usage":{',
        ',"usage":x}',
        ',"usage":' + "[" * 4090 + "}",
    ):
        told = read_answer(answer(end))
        assert (told is None) == (end[-1] != "}")
        assert told is None or usage_of(told) is None
