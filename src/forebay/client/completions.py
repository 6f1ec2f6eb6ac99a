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

PATH, MODELS_PATH = "/v1/completions", "/v1/models"
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


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class _Completion(msgspec.Struct):
    choices: list[dict[str, Any]]
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Completion)
_models_decoder = msgspec.json.Decoder(_Models)


def encode_prompt(prompt: str | Sequence[int]) -> bytes:
    """A prompt as JSON. Raises TypeError, or ValueError for a text that has no UTF-8."""
    if isinstance(prompt, str):
        return msgspec.json.encode(prompt)
    if not isinstance(prompt, Sequence) or not all(isinstance(token, int) for token in prompt):
        raise TypeError("a prompt is a text, or a list of token ids")
    return msgspec.json.encode(list(prompt))


def lane_of(model: str | None, prompt: bytes, sampling: Mapping[str, Any]) -> Lane:
    """Where a call waits; of a lane whose model is empty nobody has named one. Raises TypeError for parameters that are
    not the caller's to choose, or no JSON."""
    for name in _NOT_OURS:
        if name in sampling:
            raise TypeError(f"'{name}' is no sampling parameter: whole answers come back, one for each prompt")
    fields = dict(sampling)
    model = fields.pop("model", model) or ""
    if not isinstance(model, str):
        raise TypeError("'model' is a name")
    kind = "text" if prompt[:1] == b'"' else "tokens"
    return Lane(model, msgspec.json.encode(fields, order="deterministic"), kind)


def request_body(model: str, lane: Lane, prompts: Sequence[bytes]) -> bytes:
    """The JSON of a request to a model for these prompts, each JSON by itself."""
    members = [b'"model":%b' % msgspec.json.encode(model)]
    if len(prompts) == 1:
        members.append(b'"prompt":%b' % prompts[0])
    else:
        members.append(b'"prompt":[%b]' % b",".join(prompts))
        if b'"return_token_ids":' not in lane.parameters:
            members.append(b'"return_token_ids":true')
    if lane.parameters != b"{}":
        members.append(lane.parameters[1:-1])
    return b"{%b}" % b",".join(members)


def request_head(line: str, authority: str, api_key: str | None, timeout_s: float, body: bytes | None = None) -> bytes:
    """The head of a request; the gateway is told how long its answer will be waited for."""
    lines = [f"{line} HTTP/1.1", f"host: {authority}"]
    lines.append(f"x-request-timeout-ms: {min(max(int(timeout_s * 1000), 1), 999_999_999)}")
    if api_key is not None:
        lines.append(f"authorization: Bearer {api_key}")
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode()


def read_only_model(answer: Answer, wall: float) -> str:
    """The model of a server that has one. Raises `GenerationError`."""
    if answer.status != 200:
        raise _error_of(answer, wall)
    try:
        names = [model.id for model in _models_decoder.decode(answer.body).data]
    except msgspec.DecodeError as wrong:
        raise GenerationError(f"The list of models is not what it should be: {wrong}", code="invalid_answer") from None
    if len(names) != 1:
        told = f"Say which with model=…: there are {', '.join(names)}." if names else "There is no model."
        raise GenerationError(told, code="model_not_named")
    return names[0]


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


def _result(choices: tuple[dict[str, Any], ...], usage: _Usage | None) -> Result:
    first = choices[0]
    told = Usage(usage.prompt_tokens, usage.completion_tokens or 0) if usage else _counted(choices)
    return Result(str(first["text"]), first.get("finish_reason"), told, choices)


def _counted(choices: tuple[dict[str, Any], ...]) -> Usage | None:
    prompt = choices[0].get("prompt_token_ids")
    generated = [ids for choice in choices if (ids := choice.get("token_ids")) is not None]
    if prompt is None or len(generated) < len(choices):
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
