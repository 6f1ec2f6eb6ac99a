"""Asking an engine how it does: its /health, and a real generation."""

import json

from forebay.engines.spec import EngineSpec
from forebay.failures import Failure
from forebay.upstream.fetch import fetch
from forebay.upstream.pool import UpstreamPool

_HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
WARM_PROMPT = "The"


async def check_health(pool: UpstreamPool, timeout_s: float) -> None:
    """Return if /health answers 200. Raises `Failure`; its kind `timeout` proves nothing of a busy engine."""
    status, _ = await fetch(pool, _HEALTH, timeout_s)
    if status != 200:
        raise Failure("invalid", f"/health answered {status}")


async def generate_once(pool: UpstreamPool, spec: EngineSpec, timeout_s: float) -> None:
    """Return if the engine has really computed something: one token or, for a model that makes none, an embedding.

    Raises `Failure`.
    """
    status, body = await fetch(
        pool, _post("/v1/completions", model=spec.served_model, prompt=WARM_PROMPT, max_tokens=1), timeout_s
    )
    if status in (400, 404, 501):
        status, body = await fetch(pool, _post("/v1/embeddings", model=spec.served_model, input=WARM_PROMPT), timeout_s)
    if status != 200:
        raise Failure("invalid", f"the first generation was answered {status}: {body[:200]!r}")


def _post(path: str, **fields: object) -> bytes:
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body
