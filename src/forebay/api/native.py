"""The simple endpoints: a prompt in, a text out, over `/v1/completions` and the same pipeline as all else.

Each prompt is a request of its own: keys, limits, queue, cache and metrics see it as if the caller had sent it there.
"""

import asyncio
from collections.abc import AsyncGenerator
from time import monotonic
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from forebay.api.admitted import CallersRoute
from forebay.api.inner import GONE, EventStream, ask, fields_of, passed_back, relayed, unless_gone
from forebay.api.prompts import (
    CachedGenerate,
    CachedGenerated,
    ErrorOfPrompt,
    Generate,
    GenerateBatch,
    Generated,
    GeneratedBatch,
    ModelInfo,
    PromptResult,
    Sampling,
)
from forebay.gateway.errors import error_body
from forebay.gateway.inner import Answered, Refused
from forebay.gateway.routes import Dialect
from forebay.policy.auth import Principal
from forebay.refusals import BadGateway, BadRequest
from forebay.replicas.pool import no_such_model
from forebay.wire.completion import Retelling, read_completion

AT_ONCE = 32  # prompts of one batch
router = APIRouter(tags=["generate"], route_class=CallersRoute)
_COMPLETIONS = relayed("/v1/completions")
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@router.post("/generate", summary="Generate text", response_model=Generated, responses=_EVENTS)
async def generate(request: Request, what: Generate) -> Any:
    """The text that goes on from a prompt; with `stream`, as `/generate/stream`."""
    if what.stream:
        return await _streamed(request, what)
    return await _whole(request, what)


@router.post(
    "/generate/stream",
    summary="Generate text as a stream",
    response_class=StreamingResponse,
    responses=_EVENTS,
)
async def generate_stream(request: Request, what: Generate) -> Response:
    """Events with `text` and `index`, then one with `finish_reason` and the counts, then `[DONE]`."""
    return await _streamed(request, what)


@router.post("/generate/cached", summary="Generate text, or say it again", response_model=CachedGenerated)
async def generate_cached(request: Request, what: CachedGenerate) -> Any:
    """As `/generate`, from the response cache where it knows the answer; without a seed the seed is 0."""
    what.seed = what.seed if what.seed is not None else 0  # an answer that is drawn anew each time is not cached
    return await _whole(request, what, {b"x-forebay-cache": b"use"})


@router.post("/batch_generate", summary="Generate text for several prompts", response_model=GeneratedBatch)
@router.post("/generate/batch", summary="Generate text for several prompts", response_model=GeneratedBatch)
async def generate_batch(request: Request, what: GenerateBatch) -> Any:
    """Each prompt's result or error, in order. Each counts for limits on its own, and fails on its own."""
    most = request.app.state.gateway.settings.max_batch_prompts
    if len(what.prompts) > most:
        raise BadRequest(
            f"'prompts' may have at most {most} entries; send the rest in another request.", param="prompts"
        )
    body, began = _body(request, what), monotonic()
    results = await unless_gone(request, _side_by_side(request, body, what.prompts))
    if results is None:
        return Response(status_code=GONE)
    failed = sum(one.error is not None for one in results)
    return GeneratedBatch(
        results=results, succeeded=len(results) - failed, failed=failed, generation_time=_since(began)
    )


@router.get("/model_info", summary="One model")
async def model_info(request: Request, model: str | None = None) -> ModelInfo:
    """A model's context length, engines and presets; `?model=` says which where there are several."""
    replicas, principal = request.app.state.gateway.replicas, _principal(request)
    name = replicas.resolve(model)
    if not principal.may_use(name, model):
        raise no_such_model(model)
    serving = replicas.serving(name)
    return ModelInfo(
        model_name=name,
        max_model_len=replicas.context_tokens(name),
        ready=any(one.ready and not one.draining for one in serving),
        replicas=len(serving),
        presets=request.app.state.gateway.pipeline.resolving.presets.describe(),
    )


async def _whole(request: Request, what: Generate | CachedGenerate, headers: dict[bytes, bytes] | None = None) -> Any:
    began = monotonic()
    call = ask(request, _COMPLETIONS, {**_body(request, what), "prompt": what.prompt}, headers=headers)
    answered = await unless_gone(request, call.answer())
    if answered is None:
        return Response(status_code=GONE)
    if not answered.ok:
        return passed_back(answered)
    generated = _generated(answered, began)
    if isinstance(what, CachedGenerate):
        cached = answered.exchange.cache_state == "hit"
        generated = CachedGenerated(**dict(generated), cached=cached)
    return Response(generated.model_dump_json(), 200, fields_of(answered.lines), "application/json")


async def _side_by_side(request: Request, body: dict[str, Any], prompts: list[str]) -> list[PromptResult]:
    """All prompts, as many at once as the caller may have."""
    address = request.client.host if request.client is not None else ""
    may_have = request.app.state.gateway.local_limits.most_at_once(_principal(request), address)
    room = asyncio.Semaphore(min(AT_ONCE, may_have or AT_ONCE))

    async def one(index: int, prompt: str) -> PromptResult:
        try:
            if not prompt:
                raise BadRequest("This prompt is empty; send at least one character.", param=f"prompts.{index}")
            async with room:
                began = monotonic()
                answered = await ask(request, _COMPLETIONS, {**body, "prompt": prompt}, part=index).answer()
            if not answered.ok:
                return PromptResult(index=index, error=_error_of(answered.status, answered.body, answered.lines))
            return PromptResult(index=index, result=_generated(answered, began))
        except (BadRequest, BadGateway) as no:
            return PromptResult(index=index, error=_error_of(no.status, error_body(no, Dialect.OPENAI, "")))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(index, prompt)) for index, prompt in enumerate(prompts)]
    return [task.result() for task in tasks]


async def _streamed(request: Request, what: Generate) -> Response:
    began = monotonic()
    asked = {**_body(request, what), "prompt": what.prompt, "stream": True, "stream_options": {"include_usage": True}}
    call = ask(request, _COMPLETIONS, asked)
    blocks = call.events()
    try:
        first = await unless_gone(request, anext(blocks))
    except Refused as refused:
        return passed_back(refused.answered)
    if first is None:
        return Response(status_code=GONE)
    facts = {"model_name": call.exchange.model, "request_id": call.exchange.request_id}
    return EventStream(_retold(first, blocks, facts, began), blocks, call.exchange.lines)


async def _retold(
    block: bytes | None, blocks: AsyncGenerator[bytes, None], facts: dict[str, Any], began: float
) -> AsyncGenerator[bytes, None]:
    retelling = Retelling()
    while block is not None:
        if told := retelling.take(block):
            yield told
        block = await anext(blocks, None)
    yield retelling.end({**facts, "generation_time": _since(began)})


def _body(request: Request, what: Sampling) -> dict[str, Any]:
    """The fields of a completion that was said, and the model that is meant where none was."""
    fields = what.model_dump(exclude_none=True, exclude={"prompt", "prompts", "stream"})
    if what.model is None:
        fields["model"] = request.app.state.gateway.replicas.resolve(None)
        if not _principal(request).may_use(fields["model"]):
            raise no_such_model(None)  # without the name, which the caller did not say
    return fields


def _generated(answered: Answered, began: float) -> Generated:
    completion, exchange = read_completion(answered.body), answered.exchange
    if completion is None or not completion.choices:
        raise BadGateway("The engine's answer is no completion.")
    usage = exchange.usage
    return Generated(
        text=completion.text,
        tokens_generated=usage.completion_tokens if usage is not None else 0,
        prompt_tokens=usage.prompt_tokens if usage is not None else 0,
        finish_reason=completion.finish_reason,
        generation_time=_since(began),
        model_name=exchange.model,
        request_id=exchange.request_id,
    )


def _error_of(status: int, body: bytes, lines: bytes = b"") -> ErrorOfPrompt:
    retry_after = fields_of(lines).get("retry-after")
    told = msgspec.json.decode(body)["error"]
    return ErrorOfPrompt(**told, status=status, retry_after=int(retry_after) if retry_after else None)


def _principal(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def _since(began: float) -> float:
    return round(monotonic() - began, 6)
