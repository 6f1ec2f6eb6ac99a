"""What we ask an engine about itself: its /health, a real generation, its work and its steps."""

import json
from dataclasses import dataclass

from forebay.failures import Failure
from forebay.upstream.fetch import fetch
from forebay.upstream.pool import UpstreamPool

STEP_COUNTER = b"vllm:iteration_tokens_total_count"
RUNNING = b"vllm:num_requests_running"
WAITING = b"vllm:num_requests_waiting"
WARM_PROMPT = "The"
_MAX_VERSION = 100


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine says of its work: requests running or waiting, and how many steps it has taken."""

    requests: float
    steps: float


async def check_health(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> None:
    """Return if /health answers 200. Raises `Failure`; its kind `timeout` proves nothing of a busy engine."""
    status, _ = await fetch(pool, _request(pool, "GET /health", key), timeout_s)
    if status != 200:
        raise Failure("invalid", f"/health answered {status}")


async def generate_once(pool: UpstreamPool, model: str, timeout_s: float, key: str | None = None) -> None:
    """Return if the engine has really computed something: one token or, for a model that makes none, an embedding.

    Raises `Failure`.
    """
    status, told = await generate(pool, model, WARM_PROMPT, 1, timeout_s, key)
    if status in (400, 404, 501):
        body = {"model": model, "input": WARM_PROMPT}
        status, told = await fetch(pool, _request(pool, "POST /v1/embeddings", key, body), timeout_s)
    if status != 200:
        raise Failure("invalid", f"a generation was answered {status}: {told[:200]!r}")


async def generate(
    pool: UpstreamPool, model: str, prompt: str, tokens: int, timeout_s: float, key: str | None
) -> tuple[int, bytes]:
    """Ask for a completion; return status and body. Raises `Failure` where no answer came."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens}
    return await fetch(pool, _request(pool, "POST /v1/completions", key, body), timeout_s)


async def read_version(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> str:
    """The engine's own version. Raises `Failure`."""
    status, told = await fetch(pool, _request(pool, "GET /version", key), timeout_s)
    if status != 200:
        raise Failure("invalid", f"/version answered {status}")
    try:
        return str(json.loads(told)["version"])[:_MAX_VERSION]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure("invalid", "/version tells none") from None


async def put_to_sleep(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> None:
    """Have the engine give its GPU memory back and keep its weights in RAM. Raises `Failure`."""
    await _post(pool, "POST /sleep?level=1", timeout_s, key)


async def wake_up(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> None:
    """The reverse. Raises `Failure`."""
    await _post(pool, "POST /wake_up", timeout_s, key)


async def _post(pool: UpstreamPool, line: str, timeout_s: float, key: str | None) -> None:
    status, told = await fetch(pool, _request(pool, line, key, {}), timeout_s)
    if status != 200:
        raise Failure("invalid", f"{line} was answered {status}: {told[:200]!r}")


async def count_steps(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> float:
    """The engine's step counter, over all its cores. Raises `Failure` where it cannot be read."""
    return _sum_of(STEP_COUNTER, await read_metrics(pool, timeout_s, key))


async def read_load(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> Load:
    """The engine's work, over all its cores. Raises `Failure` where it cannot be read."""
    body = await read_metrics(pool, timeout_s, key)
    return Load(_sum_of(RUNNING, body) + _sum_of(WAITING, body), _sum_of(STEP_COUNTER, body))


async def read_metrics(pool: UpstreamPool, timeout_s: float, key: str | None) -> bytes:
    """The engine's metrics, in Prometheus's text format if it is right. Raises `Failure`."""
    status, body = await fetch(pool, _request(pool, "GET /metrics", key), timeout_s)
    if status != 200:
        raise Failure("invalid", f"/metrics answered {status}")
    return body


def _sum_of(name: bytes, body: bytes) -> float:
    """A metric over all its labels."""
    lines = [line for line in body.splitlines() if line.startswith((name + b"{", name + b" "))]
    if not lines:
        raise Failure("invalid", f"no {name.decode()} in /metrics")
    try:
        return sum(float(line.rsplit(b" ", 1)[1]) for line in lines)
    except ValueError:
        raise Failure("invalid", f"{name.decode()} in /metrics is no number") from None


def _request(pool: UpstreamPool, line: str, key: str | None, body: object = None) -> bytes:
    method, path = line.split()
    lines = [f"{method} {pool.address.prefix}{path} HTTP/1.1", f"host: {pool.address.authority}"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    data = b""
    if body is not None:
        data = json.dumps(body).encode()
        lines += ["content-type: application/json", f"content-length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data
