"""`make bench-hot-path`: what a request costs the interpreter, without sockets, and what each policy adds to it.

A client's connection and an engine's are fed by hand, so that only Forebay's own work is measured: microseconds a
request with everything on, then with one thing less, the medians of rounds that take turns. What the kernel and the
event loop cost comes on top: see `make bench-gateway`.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from forebay.config.sources import load_settings
from forebay.gateway.build import Gateway
from forebay.gateway.listener import GatewayServer
from forebay.gateway.parts import make_replica
from forebay.gateway.server import ClientConnection
from forebay.store.database import open_database
from forebay.telemetry.logging import LogWriter
from forebay.upstream.connection import Connection
from forebay.upstream.pool import Address

KEY = "sk-x"
LIMITS = {"requests_per_minute": 100_000_000, "tokens_per_minute": 100_000_000_000}
EVERYTHING: dict[str, Any] = {"api_keys": (KEY,), "key_limits": LIMITS, "access_log": True}
LESS: dict[str, dict[str, Any]] = {
    "everything": {},
    "without the ledger": {"database_url": None},
    "without limits": {"key_limits": None},
    "without the access log": {"access_log": False},
    "without the stories": {"recent_requests": 0},
    "without a bound on prompts": {"prefill_target_s": 0.0},
    "without any of these": {
        "prefill_target_s": 0.0,
        "database_url": None,
        "key_limits": None,
        "access_log": False,
        "recent_requests": 0,
        "api_keys": (),
    },
}
CHAT = {
    "model": "m",
    "max_tokens": 100,
    "messages": [
        {"role": "system", "content": "You are helpful. " * 15},
        {"role": "user", "content": "Tell me a story about a fox. " * 8},
    ],
}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello. " * 6}}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
}


class Wire:
    """A transport that takes everything and keeps nothing."""

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class HotPath:
    """A gateway with one client connection and one idle connection to its engine."""

    def __init__(self, name: str, scratch: str, writer: LogWriter) -> None:
        flags = {"database_url": f"sqlite:///{scratch}/forebay.db", **EVERYTHING, **LESS[name]}
        settings, _ = load_settings({name: value for name, value in flags.items() if value is not None}, env={})
        database = open_database(settings) if settings.database_url else None
        replica = make_replica(settings, "engine", Address.parse("http://127.0.0.1:1"))
        replica.models, replica.ready = {"m": {"id": "m"}}, True
        self.gateway = Gateway(settings, writer, [replica], database=database)
        self.gateway.replicas.refresh()
        server = GatewayServer(self.gateway)
        server.config.load()
        self.client = ClientConnection(self.gateway, server.config, server.server_state, {})
        self.client.connection_made(Wire())  # type: ignore[arg-type]
        pool = replica.upstream
        self.engine = Connection(pool._outbox, pool._idle.append, pool._forget)
        self.engine.send(b"", self)
        self.engine.connection_made(Wire())  # type: ignore[arg-type]
        body, answer = json.dumps(CHAT).encode(), json.dumps(ANSWER).encode()
        self.request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
        )
        self.answer = (
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n%s"
            % (len(answer), answer)
        )
        self.engine.data_received(self.answer)

    # The reader of the engine's first answer, which makes its connection an idle one
    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None: ...
    def block(self, data: bytes, now: float) -> None: ...
    def end(self, now: float) -> None: ...

    async def microseconds(self, count: int) -> float:
        """What one of so many requests costs."""
        before = self.gateway.recorder.answered
        began = time.perf_counter()
        for _ in range(count):
            self.client.data_received(self.request)
            self.engine.data_received(self.answer)
        took = time.perf_counter() - began
        assert self.gateway.recorder.answered == before + count
        await asyncio.sleep(0)
        return took / count * 1e6


async def measure(rounds: int, count: int) -> dict[str, list[float]]:
    """Rounds of all, in turn."""
    figures: dict[str, list[float]] = {name: [] for name in LESS}
    with tempfile.TemporaryDirectory() as scratch, Path(os.devnull).open("wb") as nowhere:
        writer = LogWriter(nowhere.fileno(), text=False)
        writer.start()
        paths = {name: HotPath(name, scratch, writer) for name in LESS}
        for path in paths.values():
            await path.microseconds(200)
        for _ in range(rounds):
            for name, path in paths.items():
                figures[name].append(await path.microseconds(count))
        writer.stop()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=2000, help="a round")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.rounds, options.requests))
    whole = statistics.median(figures["everything"])
    for name, values in figures.items():
        cost = statistics.median(values)
        print(f"{name:24} {cost:6.1f} µs" + (f"   {whole - cost:+5.1f}" if name != "everything" else ""))


if __name__ == "__main__":
    main()
