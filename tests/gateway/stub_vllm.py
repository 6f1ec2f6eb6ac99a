"""Stands in for vLLM's process: takes its options, serves --uds, and misbehaves as STUB says. Standard library only."""

import json
import os
import signal
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

MODE = os.environ.get("STUB", "")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        sick = MODE == "unhealthy" or os.path.exists(os.environ.get("STUB_SICK", "/none"))
        self.answer(503 if sick else 200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(500 if MODE == "no-generation" else 200, {"choices": []})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None: ...


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def stubborn_grandchild() -> None:
    """A process in a session of its own that does not listen to SIGTERM, as a wedged worker would be."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)


def main() -> None:
    if MODE == "exit-0":
        print("\x1b[31mERROR 11-21 10:00:00 [core.py:1] torch.OutOfMemoryError: CUDA out of memory\x1b[0m", flush=True)
        sys.exit(0)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stubborn_grandchild()
    path = sys.argv[sys.argv.index("--uds") + 1]
    print("INFO 11-21 10:00:00 [api_server.py:1] starting", flush=True)
    with Server(path, Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
