"""What goes over the wire: calls → one request to `/v1/completions`; its answer → a result for each call, or an error.

One request may have a list of prompts; the engine generates them together and numbers the answers through: prompt i has
the choices i*n to i*n+n-1. Its usage counts all prompts in one, so that each has its own share only where the token ids
are asked for; they are, where there is more than one prompt. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from forebay.client.batching import Lane
from forebay.client.result import GenerationError, Result, Usage
from forebay.client.retrying import read_retry_after

PATH = "/v1/completions"
_NOT_OURS = ("prompt", "stream", "stream_options")
_WITH_IDS = b'"return_token_ids":true,'
_MOST_WORDS = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer to one request; names of headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int | None = 0


class _Completion(msgspec.Struct):
    choices: list[dict[str, Any]]
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Completion)


def encode_prompt(prompt: str | Sequence[int]) -> bytes:
    """A prompt as JSON. Raises TypeError, or ValueError for a text that has no UTF-8."""
    if isinstance(prompt, str):
        return msgspec.json.encode(prompt)
    if not isinstance(prompt, Sequence) or not all(isinstance(token, int) for token in prompt):
        raise TypeError("a prompt is a text, or a list of token ids")
    return msgspec.json.encode(list(prompt))


def lane_of(model: str | None, prompt: bytes, sampling: Mapping[str, Any]) -> Lane:
    """Where a call waits. Raises TypeError for parameters that are not its own to choose, or no JSON."""
    for name in _NOT_OURS:
        if name in sampling:
            raise TypeError(f"'{name}' is no sampling parameter: whole answers come back, one for each prompt")
    fields = dict(sampling) if model is None else {"model": model, **sampling}
    parameters = msgspec.json.encode(fields, order="deterministic")
    return Lane(str(fields.get("model", "")), parameters, "text" if prompt[:1] == b'"' else "tokens")


def parameters_of(lane: Lane) -> frozenset[str]:
    return frozenset(msgspec.json.decode(lane.parameters, type=dict[str, Any]))


def request_body(lane: Lane, prompts: Sequence[bytes]) -> bytes:
    """The JSON of a request for these prompts, each JSON by itself."""
    if len(prompts) == 1:
        return b"{%b%b" % (b'"prompt":%b' % prompts[0], _others(lane))
    ids = b"" if "return_token_ids" in parameters_of(lane) else _WITH_IDS
    return b'{%b"prompt":[%b]%b' % (ids, b",".join(prompts), _others(lane))


def request_head(target: str, authority: str, api_key: str | None, body_bytes: int, timeout_s: float) -> bytes:
    """The head of a request; the gateway is told how long its answer will be waited for."""
    lines = [f"POST {target} HTTP/1.1", f"host: {authority}", "content-type: application/json"]
    lines.append(f"content-length: {body_bytes}")
    lines.append(f"x-request-timeout-ms: {min(max(int(timeout_s * 1000), 1), 999_999_999)}")
    if api_key is not None:
        lines.append(f"authorization: Bearer {api_key}")
    return "\r\n".join([*lines, "", ""]).encode()


def read_results(answer: Answer, prompts: int, wall: float) -> list[Result]:
    """The results of so many prompts, in their order. Raises `GenerationError`."""
    if answer.status != 200:
        raise _error_of(answer, wall)
    try:
        completion = _decoder.decode(answer.body)
        several, rest = divmod(len(completion.choices), prompts)
        if rest or not several:
            raise ValueError(f"{len(completion.choices)} choices for {prompts} prompts")
        choices = sorted(completion.choices, key=lambda choice: int(choice["index"]))
        usage = completion.usage if prompts == 1 else None
        return [_result(tuple(choices[at : at + several]), usage) for at in range(0, len(choices), several)]
    except (ValueError, KeyError, TypeError) as wrong:
        raise GenerationError(f"The answer is not what it should be: {wrong}", code="invalid_answer") from None


def _others(lane: Lane) -> bytes:
    """The end of a body: the parameters behind the prompt."""
    return b"," + lane.parameters[1:] if lane.parameters != b"{}" else b"}"


def _result(choices: tuple[dict[str, Any], ...], usage: _Usage | None) -> Result:
    first = choices[0]
    told = Usage(usage.prompt_tokens, usage.completion_tokens or 0) if usage else _counted(choices)
    return Result(str(first["text"]), first.get("finish_reason"), told, choices)


def _counted(choices: tuple[dict[str, Any], ...]) -> Usage | None:
    prompt, generated = choices[0].get("prompt_token_ids"), [choice.get("token_ids") for choice in choices]
    if prompt is None or None in generated:
        return None
    return Usage(len(prompt), sum(map(len, generated)))


def _error_of(answer: Answer, wall: float) -> GenerationError:
    message, code, param = _words(answer.body)
    should_retry = {b"true": True, b"false": False}.get(answer.headers.get(b"x-should-retry", b"").lower())
    retry_after = answer.headers.get(b"retry-after")
    return GenerationError(
        message or f"Answered with status {answer.status}.",
        status=answer.status,
        code=code,
        param=param,
        request_id=answer.headers.get(b"x-request-id", b"").decode("latin-1") or None,
        retry_after_s=None if retry_after is None else read_retry_after(retry_after.decode("latin-1"), wall),
        should_retry=should_retry,
    )


def _words(body: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and parameter of an error's body; what stands in front of a gateway may answer with anything."""
    try:
        error = msgspec.json.decode(body)["error"]
        message, code, param = error["message"], error.get("code"), error.get("param")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, RecursionError):
        return body[:_MOST_WORDS].decode("utf-8", "replace").strip(), None, None
    return str(message), None if code is None else str(code), param if isinstance(param, str) else None
