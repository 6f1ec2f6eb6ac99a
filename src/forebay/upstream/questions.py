"""What we ask an engine about itself: its /health, a real generation, how many steps it has taken."""

import json

from forebay.failures import Failure
from forebay.upstream.fetch import fetch
from forebay.upstream.pool import UpstreamPool

STEP_COUNTER = b"vllm:iteration_tokens_total_count"
WARM_PROMPT = "The"


async def check_health(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> None:
    """Return if /health answers 200. Raises `Failure`; its kind `timeout` proves nothing of a busy engine."""
    status, _ = await fetch(pool, _request(pool, "GET /health", key), timeout_s)
    if status != 200:
        raise Failure("invalid", f"/health answered {status}")


async def generate_once(pool: UpstreamPool, model: str, timeout_s: float, key: str | None = None) -> None:
    """Return if the engine has really computed something: one token or, for a model that makes none, an embedding.

    Raises `Failure`.
    """
    body = {"model": model, "prompt": WARM_PROMPT, "max_tokens": 1}
    status, told = await fetch(pool, _request(pool, "POST /v1/completions", key, body), timeout_s)
    if status in (400, 404, 501):
        body = {"model": model, "input": WARM_PROMPT}
        status, told = await fetch(pool, _request(pool, "POST /v1/embeddings", key, body), timeout_s)
    if status != 200:
        raise Failure("invalid", f"a generation was answered {status}: {told[:200]!r}")


async def count_steps(pool: UpstreamPool, timeout_s: float, key: str | None = None) -> float:
    """The engine's step counter, over all its cores. Raises `Failure` where it cannot be read."""
    status, body = await fetch(pool, _request(pool, "GET /metrics", key), timeout_s)
    lines = [line for line in body.splitlines() if line.startswith(STEP_COUNTER)]
    if status != 200 or not lines:
        raise Failure("invalid", "no step counter in /metrics")
    try:
        return sum(float(line.rsplit(b" ", 1)[1]) for line in lines)
    except ValueError:
        raise Failure("invalid", "the step counter in /metrics is no number") from None


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
