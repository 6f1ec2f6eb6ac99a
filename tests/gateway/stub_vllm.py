"""Stands in for vLLM's process: takes its options, serves --uds or --port, and misbehaves as STUB says. Standard
library only.

    STUB         exit-0 · unhealthy · no-generation · stubborn · loading (for ever, deaf to SIGTERM, as vLLM is then)
    STUB_LOADS   while this file exists, it loads: nothing listens yet
    STUB_SICK    while this file exists, /health answers 503
    STUB_HANG    while this file exists, no generation begins, and none goes on
    --fail       as an option: ends at once, as vLLM does for options that it does not take
    STUB_ASKED   file that gets a line for each generation asked for: its prompt and number of tokens, as JSON

Its model is called as --served-model-name says ("m"), and an answer's `created` is the --max-model-len of who gave it.
The prompt "hold" is answered with a stream that ends when the file STUB_RELEASE exists; "stream" with one of five
tokens, 10 ms apart; "refused" with 400. That of "prefill" takes one step until then: as in vLLM, it is not in the
figures before that, and holds up everybody else's.
"""

import contextlib
import json
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

MODE = os.environ.get("STUB", "")
KEY = os.environ.get("VLLM_API_KEY")
POLL_S = 0.01


class Figures:
    """What /metrics tells."""

    lock = threading.Lock()
    step = threading.Lock()
    running = 0
    steps = 0
    scrapes = 0
    asleep = False

    @classmethod
    def text(cls) -> str:
        with cls.lock:
            cls.scrapes += 1
            return (
                f"stub:scrapes {cls.scrapes}\n"
                f'vllm:num_requests_running{{engine="0",model_name="m"}} {cls.running}.0\n'
                'vllm:num_requests_waiting{engine="0",model_name="m"} 0.0\n'
                'vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0\n'
                f'vllm:iteration_tokens_total_count{{engine="0",model_name="m"}} {cls.steps}.0\n'
            )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.answer(200, Figures.text().encode(), "text/plain")
            return
        sick = MODE == "unhealthy" or exists("STUB_SICK")
        card = {"id": option("--served-model-name", "m"), "object": "model"}
        self.say(503 if sick else 200, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "--enable-sleep-mode" in sys.argv and self.path in ("/sleep?level=1", "/wake_up"):
            Figures.asleep = self.path != "/wake_up"
            self.say(200, {})
        elif KEY and self.headers["authorization"] != f"Bearer {KEY}":
            self.say(401, {"error": "Unauthorized"})
        elif MODE == "no-generation" or Figures.asleep:
            self.say(500, {})
        elif asked.get("prompt") == "refused":
            self.say(400, {"error": "refused"})
        else:
            self.generate(asked)

    def generate(self, asked: dict[str, Any]) -> None:
        note(asked)
        with Figures.step:
            if asked.get("prompt") == "prefill":
                wait_until(lambda: exists("STUB_RELEASE"))
        with Figures.lock:
            Figures.running += 1
        try:
            if asked.get("prompt") == "hold":
                self.stream()
            elif asked.get("prompt") == "stream":
                self.stream_tokens(5)
            wait_until(lambda: not exists("STUB_HANG"))
            if asked.get("prompt") not in ("hold", "stream"):
                self.say(200, {"choices": [], "created": int(option("--max-model-len", "0"))})
        finally:
            with Figures.lock:
                Figures.running -= 1
                Figures.steps += 1

    def stream(self) -> None:
        self.begin_stream()
        self.chunk(b'data: {"choices": []}\n\n')
        wait_until(lambda: exists("STUB_RELEASE"))
        self.end_stream()

    def stream_tokens(self, number: int) -> None:
        self.begin_stream()
        for token in range(number):
            choice = {"index": 0, "text": f" t{token}", "finish_reason": "length" if token == number - 1 else None}
            event = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
            self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
            time.sleep(POLL_S)
        self.end_stream()

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def end_stream(self) -> None:
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def say(self, status: int, body: dict[str, Any]) -> None:
        self.answer(status, json.dumps(body).encode(), "application/json")

    def answer(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None: ...


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 2048  # as uvicorn's


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_: Any) -> None: ...


def option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def exists(variable: str) -> bool:
    return os.path.exists(os.environ.get(variable, "/none"))


def wait_until(condition: Any) -> None:
    while not condition():
        time.sleep(POLL_S)


def note(asked: dict[str, Any]) -> None:
    if path := os.environ.get("STUB_ASKED"):
        line = json.dumps([asked.get("prompt"), asked.get("max_tokens")]) + "\n"
        with Figures.lock, open(path, "a") as file:
            file.write(line)


def stubborn_grandchild() -> None:
    """A process in a session of its own that does not listen to SIGTERM, as a wedged worker would be."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)


def a_server(arguments: list[str]) -> socketserver.BaseServer:
    if "--uds" in arguments:
        return UnixServer(arguments[arguments.index("--uds") + 1], Handler)
    host, port = (arguments[arguments.index(flag) + 1] for flag in ("--host", "--port"))
    return TcpServer((host, int(port)), Handler)


def main() -> None:
    if "--fail" in sys.argv:
        sys.exit("api_server.py: error: unrecognized arguments: --fail")
    if MODE == "exit-0":
        print("\x1b[31mERROR 11-21 10:00:00 [core.py:1] torch.OutOfMemoryError: CUDA out of memory\x1b[0m", flush=True)
        sys.exit(0)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stubborn_grandchild()
    print("INFO 11-21 10:00:00 [api_server.py:1] starting", flush=True)
    if MODE == "loading":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("INFO 11-21 10:00:00 [weights.py:1] loading", flush=True)
        signal.pause()
    wait_until(lambda: not exists("STUB_LOADS"))
    if root := os.environ.get("VLLM_CACHE_ROOT"):  # something compiled
        Path(root).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (Path(root) / "compiled").write_bytes(b"x" * 1000)
    with a_server(sys.argv) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
