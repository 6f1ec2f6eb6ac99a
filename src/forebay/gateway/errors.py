"""Refusals and the engine's own failures, turned into what goes over the wire. The only place that words errors.

OpenAI's form is `{"error": {"message", "type", "param", "code"}}`; `/v1/messages` speaks Anthropic's. The engine's
errors are no OpenAI errors (`type: "BadRequestError"`, an integer `code`, sometimes a bare string), so they are read
loosely and said again in our words' form.
"""

import math
import random
from typing import Any

import msgspec

from forebay import refusals
from forebay.failures import Failure
from forebay.gateway.routes import Dialect
from forebay.refusals import Refusal
from forebay.room import Held

MAX_RETRY_AFTER_S = 60
MAX_MESSAGE = 2000
MOST_ERROR_BYTES = 1 << 20  # what is longer is no message
_ANTHROPIC = Dialect.ANTHROPIC  # a name without a dot: this is looked at for every answer
ENGINE_DEAD = b"EngineCore encountered an issue"  # vLLM's EngineDeadError, said with 500 to every request it held

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _Error(msgspec.Struct):
    code: int


class _Told(msgspec.Struct):
    error: _Error


_error_decoder = msgspec.json.Decoder(_Told)


def error_body(refusal: Refusal, dialect: Dialect, request_id: str) -> bytes:
    """The JSON body of a refusal."""
    if dialect is Dialect.ANTHROPIC:
        return msgspec.json.encode({"type": "error", "error": _anthropic_error(refusal), "request_id": request_id})
    return msgspec.json.encode({"error": _openai_error(refusal)})


def error_headers(refusal: Refusal) -> bytes:
    """The header lines that a refusal brings with it."""
    lines = []
    if refusal.status == 401:
        lines.append(b"www-authenticate: Bearer\r\n")
    if refusal.retry_after_s is not None:
        spread = 1.0 + random.random() if refusal.spread else 1.0  # noqa: S311
        seconds = min(max(math.ceil(refusal.retry_after_s * spread), 1), MAX_RETRY_AFTER_S)
        lines.append(b"retry-after: %d\r\n" % seconds)
    if refusal.should_retry is not None:
        lines.append(b"x-should-retry: %s\r\n" % (b"true" if refusal.should_retry else b"false"))
    lines.extend(b"%s: %s\r\n" % pair for pair in refusal.headers)
    return b"".join(lines)


def id_lines(request_id: str, dialect: Dialect) -> bytes:
    """The header lines that tell a request's id; Anthropic's clients read one of a name of their own."""
    line = b"x-request-id: %s\r\n" % request_id.encode()
    return line + line[2:] if dialect is _ANTHROPIC else line


def error_events(refusal: Refusal, dialect: Dialect, sequence_number: int) -> bytes:
    """What ends a stream that cannot go on, in the form that each official client raises on."""
    if dialect is Dialect.ANTHROPIC:
        data = msgspec.json.encode({"type": "error", "error": _anthropic_error(refusal)})
        return b"event: error\ndata: %s\n\n" % data
    if dialect is Dialect.RESPONSES:
        error = {
            "type": "error",
            "code": refusal.code,
            "message": refusal.message,
            "param": refusal.param,
            "sequence_number": sequence_number,
        }
        return b"event: error\ndata: %s\n\n" % msgspec.json.encode(error)
    data = msgspec.json.encode({"error": _openai_error(refusal)})
    return b"data: %s\n\ndata: [DONE]\n\n" % data


def refusal_from_stream(told: Held, prompt: str) -> Refusal:
    """The same of an error that came with status 200: vLLM finds some requests wrong when their stream has begun."""
    try:
        status = _error_decoder.decode(told).error.code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        status = 500
    return refusal_from_engine(status if status in (400, 422) else 500, told, prompt)


def refusal_from_engine(status: int, body: Held, prompt: str | None = None) -> Refusal:
    """Say again, in our form, what an engine answered with a status other than 200. `prompt` is the field of the
    prompt, for where the engine names none or one of its own.

    A wrong request stays a 4xx with the engine's words; what the caller cannot help becomes 502 or 503, without
    the engine's words.
    """
    message, param = _engine_words(body)
    if status in (400, 422, 501):
        kind: type[Refusal] = refusals.Unprocessable if status == 422 else refusals.BadRequest
        if _is_context_length(message):
            kind = refusals.ContextTooLong
            param = prompt if param is None or param.startswith("input_") else param
        return kind(message or "The engine refused the request.", param=param)
    if status == 404:
        return refusals.NotFound(message or "The engine does not know what was asked for.", param=param)
    if status == 413:
        return refusals.BodyTooLarge(message or "The engine refused the request as too large.")
    if status in (429, 503):
        return refusals.Overloaded("The engine is overloaded. Try again shortly.", retry_after_s=2)
    if status == 500 and ENGINE_DEAD in body:
        return refusals.EngineUnavailable("The engine stopped while it worked on this request.", retry_after_s=5)
    if status == 500:
        return refusals.Unavailable("The engine failed on this request.", code="engine_error", retry_after_s=1)
    if status == 504:
        return refusals.UpstreamTimeout("The engine took too long.")
    if status in (405, 415):
        return refusals.BadRequest(message or "The engine does not offer this endpoint for this model.")
    return refusals.BadGateway(f"The engine answered with status {status}.", retry_after_s=1)


def refusal_from_failure(failure: Failure, *, generated: bool) -> Refusal:
    """What a caller is told of a failed attempt. Where tokens were generated a blind retry would repeat work."""
    match failure.kind:
        case "connect":
            return refusals.EngineUnavailable("No engine could be reached. Try again shortly.", retry_after_s=2)
        case "local":
            return refusals.Overloaded("The gateway has no room for another connection.", retry_after_s=2)
        case "closed":
            return refusals.EngineUnavailable("The engine stopped while it worked on this request.", retry_after_s=5)
        case "invalid":
            return refusals.BadGateway("The engine's answer is not valid HTTP.", retry_after_s=1)
        case "timeout" | "stalled":
            return refusals.UpstreamTimeout("The engine took too long.", should_retry=False if generated else None)


def no_room() -> Refusal:
    """What a caller is told whose body or answer there is no memory for."""
    refusal = refusals.Overloaded("Too much is held in memory just now. Try again shortly.", retry_after_s=2)
    refusal.facts = {"reason": "memory"}
    return refusal


def anthropic_type(status: int) -> str:
    """What Anthropic calls an error of a status."""
    return _ANTHROPIC_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


def _openai_error(refusal: Refusal) -> dict[str, Any]:
    return {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}


def _anthropic_error(refusal: Refusal) -> dict[str, str]:
    return {"type": anthropic_type(refusal.status), "message": refusal.message}


def _engine_words(body: Held) -> tuple[str, str | None]:
    """The message and parameter in an engine's error body, whatever its shape."""
    if len(body) > MOST_ERROR_BYTES:
        return "", None
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return "", None
    error = told.get("error", told) if isinstance(told, dict) else told
    if isinstance(error, str):
        return _clip(error), None
    if not isinstance(error, dict):
        return "", None
    message, param = error.get("message", error.get("detail")), error.get("param")
    if not isinstance(message, str):
        message = "" if message is None else msgspec.json.encode(message).decode()
    return _clip(message), param if isinstance(param, str) else None


def _clip(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "…"


def _is_context_length(message: str) -> bool:
    told = "maximum context length" in message or "max_model_len" in message or "maximum model length" in message
    return told and not message.startswith("truncate_prompt_tokens")
