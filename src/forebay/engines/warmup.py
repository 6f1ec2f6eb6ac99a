"""The warm-up between healthy and ready: every prompt of the settings is generated.

So that whatever compiles or is captured at first use has been, and that the prompts' common beginnings are in the
prefix cache. A prompt that the engine refuses (4xx) is skipped; at least one generation must succeed, or one embedding
where the model makes no text.
"""

import asyncio
import logging

from forebay.config.settings import Settings
from forebay.engines.spec import EngineSpec
from forebay.failures import Failure
from forebay.upstream.pool import UpstreamPool
from forebay.upstream.questions import generate, generate_once

log = logging.getLogger("forebay.engine")

AT_ONCE = 8


async def warm_up(pool: UpstreamPool, spec: EngineSpec, settings: Settings) -> None:
    """Return once every prompt is generated or refused. Raises `Failure` where one fails, or none is generated."""
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(prompt: str) -> tuple[int, bytes]:
        async with places:
            timeout_s = settings.engine_warm_timeout_s
            return await generate(pool, spec.served_model, prompt, settings.warmup_tokens, timeout_s, spec.api_key)

    answers = await asyncio.gather(*map(ask, settings.warmup_prompts), return_exceptions=True)
    skipped: list[tuple[int, int, bytes]] = []
    for number, answer in enumerate(answers):
        if isinstance(answer, BaseException):
            raise answer
        status, told = answer
        if 400 <= status < 500 or status == 501:
            skipped.append((number, status, told))
        elif status != 200:
            raise Failure("invalid", f"warm-up prompt {number} was answered {status}: {told[:200]!r}")
    if len(skipped) == len(answers):
        await generate_once(pool, spec.served_model, settings.engine_warm_timeout_s, spec.api_key)
    for number, status, told in skipped:
        extra = {"engine": spec.name, "prompt": number, "status": status, "why": told[:200].decode(errors="replace")}
        log.warning("warm-up prompt skipped", extra=extra)
