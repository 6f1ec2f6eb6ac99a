"""A request's body → what the gateway must know of it (`Demand`), and the bytes to send on.

The body is decoded once, and only the fields below are looked at; all else is vLLM's to judge. It is sent on byte for
byte unless the model has another name at the engine, the gateway needs to ask for the usage or the token ids that the
caller did not ask for, or its tenant has a salt (`policy/salts.py`); then only those fields change.

Refused here, because nothing behind us bounds them: JSON that is none, too deep or of too many parts, more answers,
prompts, log-probabilities or tokens than allowed, more tools, schemas and patterns (`structure.py`), addresses that an
engine would fetch from (`media.py`), and the fields by which a caller would steer the engine itself (its scheduler,
its caches, its ids). Refused too, because two readers could take it for two requests: a name that comes twice, at the
top or in `stream_options`, and a number for sampling that no float can hold. Names and numbers deeper than that are
the engine's to judge: it reads the last of two as we would, and answers 400 to numbers that are too large for it.
"""

import codecs
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import astuple

from forebay.refusals import BadRequest, InvalidJSON
from forebay.wire.length import ids_in
from forebay.wire.media import TOKENS_A_PIECE, Prompts, check_media, may_have_media
from forebay.wire.shape import check_parts, has_doubled_name, members_of, slices, texts_in
from forebay.wire.structure import check_structure, needs_compiling
from forebay.wire.usage import BYTES_PER_TOKEN

LARGE_BYTES = 256 * 1024  # what a larger body is made of is counted before anything is made of it

_FIELD_IN_MESSAGE = re.compile(r"`\$\.([A-Za-z_]+)")


_Scalar = float | bool | str | None  # engines take "1" for 1


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_ABSENT = Raw()


class _Usual(msgspec.Struct):
    """The fields that nearly all requests are made of. Those from `temperature` on are the engine's alone, and named so
    that they are known; see `_is_all_of`."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    messages: Raw = _ABSENT
    prompt: Raw = _ABSENT
    input: Raw = _ABSENT
    temperature: _Scalar = None
    top_p: _Scalar = None
    top_k: _Scalar = None
    seed: _Scalar = None
    user: _Scalar = None
    ignore_eos: _Scalar = None


class _Body(_Usual):
    """All fields of any relayed request that the gateway acts on."""

    stream_options: _StreamOptions | UnsetType | None = UNSET  # type: ignore[assignment]
    n: int | None = None
    best_of: int | None = None
    max_output_tokens: int | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    stop: str | list[str] | None = None
    previous_response_id: str | None = None
    preset: str | None = None
    tool_choice: Raw | UnsetType = UNSET
    # The engine's own controls; see `_read_seldom`.
    priority: Raw | UnsetType = UNSET
    request_id: Raw | UnsetType = UNSET
    cache_salt: Raw | UnsetType = UNSET
    kv_transfer_params: Raw | UnsetType = UNSET
    ec_transfer_params: Raw | UnsetType = UNSET
    vllm_xargs: Raw | UnsetType = UNSET
    mm_processor_kwargs: Raw | UnsetType = UNSET
    media_io_kwargs: Raw | UnsetType = UNSET
    chat_template: Raw | UnsetType = UNSET
    session_id: Raw | UnsetType = UNSET
    logits_processors: Raw | UnsetType = UNSET
    # What makes an answer more than text that another engine could go on with; see `_has_only_text`.
    tools: Raw | UnsetType = UNSET
    functions: Raw | UnsetType = UNSET
    response_format: Raw | UnsetType = UNSET
    structured_outputs: Raw | UnsetType = UNSET
    guided_json: Raw | UnsetType = UNSET
    guided_regex: Raw | UnsetType = UNSET
    guided_choice: Raw | UnsetType = UNSET
    guided_grammar: Raw | UnsetType = UNSET
    echo: Raw | UnsetType = UNSET
    text: Raw | UnsetType = UNSET
    use_beam_search: Raw | UnsetType = UNSET
    return_token_ids: Raw | UnsetType = UNSET
    prompt_embeds: Raw | UnsetType = UNSET


_FIELDS = _Body.__struct_fields__
_ENGINE_ONLY = _FIELDS[_FIELDS.index("priority") : _FIELDS.index("tools")]
_BEYOND_TEXT = _FIELDS[_FIELDS.index("tools") :]
_STRUCTURE = (*_BEYOND_TEXT[: _BEYOND_TEXT.index("echo")], "text")
_NONE_OF_IT = frozenset({b"null", b"false", b"[]", b'{"type":"text"}', b'{"type": "text"}'})
_PROMPT_TOKENS_AT_MOST = 32_768
_TOKENS_NOT_SAID = 256
_TOKENS_AT_MOST = 1024
_ASK_USAGE, _ASK_IDS = b',"stream_options":{"include_usage":true}', b',"return_token_ids":true'
_LONG_TEXT, _BEGINNING = 1024, 32  # bytes of a text that is worth finding, and by which it is found
_USUAL_COUNT = len(_Usual.__struct_fields__)
_usual_decoder = msgspec.json.Decoder(_Usual)
_decoder = msgspec.json.Decoder(_Body)
_prompts_decoder = msgspec.json.Decoder(Prompts)
_Fields = TypeVar("_Fields", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Caps on what one request may ask; counts, and levels of JSON nesting."""

    max_n: int
    max_logprobs: int
    max_stop: int
    max_output_tokens: int
    max_json_depth: int
    max_json_parts: int
    max_prompts: int = 128
    max_inputs: int = 2048
    max_tools: int = 128
    max_schema_bytes: int = 256 * 1024
    max_grammar_bytes: int = 8192
    media_hosts: frozenset[str] = frozenset()


class Demand(msgspec.Struct):
    """What one request asks for. `model` is what the caller named; `wants_usage` whether a stream shall end with it;
    `resumable` whether its stream is plain text that another engine could go on with; `preset` names values that the
    body shall be filled in with. `n` are the answers, to all prompts together; `prompt_ids` the ids of the longest
    prompt that comes as token ids; `compiles` whether the engine has to compile a schema, a pattern or a grammar
    first; `weightless` by how many bytes the body is longer than a text of as many tokens, for the media in it."""

    model: str | None
    stream: bool
    wants_usage: bool
    has_options: bool
    resumable: bool
    max_tokens: int | None
    n: int = 1
    prompt_ids: int = 0
    previous_response_id: str | None = None
    preset: str | None = None
    compiles: bool = False
    weightless: int = 0


def read_demand(body: bytes, limits: BodyLimits) -> Demand:
    """Read a request's body. Raises `InvalidJSON` or `BadRequest` with the offending parameter."""
    most_deep, large = limits.max_json_depth, len(body) > LARGE_BYTES
    if large:
        check_parts(body, most_deep, limits.max_json_parts)
    fields = _decoded(_usual_decoder, body, limits)
    if not body.isascii():
        _check_utf8(body)
    colons = body.count(b":")
    arrays = body.count(b"[") if body.find(b"[") != body.rfind(b"[") else 1  # or none: to count takes twice as long
    # An object within another is behind a colon: most bodies are too short of them, and of arrays, to be deep.
    if (
        (colons + arrays >= most_deep or len(body) > limits.max_json_parts)
        and not large
        and arrays + body.count(b"{") > most_deep
    ):
        check_parts(body, most_deep, limits.max_json_parts)
    most, most_of_chat = fields.max_tokens, fields.max_completion_tokens
    if most is not None and not 0 <= most <= limits.max_output_tokens:
        raise _out_of_range("max_tokens", 0, limits.max_output_tokens)
    if most_of_chat is not None and not 1 <= most_of_chat <= limits.max_output_tokens:
        raise _out_of_range("max_completion_tokens", 1, limits.max_output_tokens)
    options, stream = fields.stream_options, fields.stream is True
    wants_usage = options is not None and options.include_usage is True
    demand = Demand(fields.model, stream, wants_usage, options is not None, stream, most_of_chat or most)
    if not _is_all_of(body, fields, colons):
        _read_seldom(body, limits, demand)
    if fields.prompt is not _ABSENT or fields.input is not _ABSENT:
        _count_prompts(fields, limits, demand)
    # In messages an address is in a part of a content, so there is an array within an array: most bodies are no such.
    if (arrays > 1 or fields.input is not _ABSENT) and may_have_media(body):
        count, size = check_media(_decoded(_prompts_decoder, body, limits), limits.media_hosts)
        demand.weightless = size - count * TOKENS_A_PIECE * BYTES_PER_TOKEN
    return demand


def _count_prompts(fields: _Usual, limits: BodyLimits, demand: Demand) -> None:
    """Take in that there may be several, and of how many token ids. Raises `BadRequest`."""
    if (prompts := _prompts(bytes(fields.prompt))) > 1:
        demand.n *= prompts  # each has as many answers
        demand.resumable = False
        if demand.n > limits.max_prompts:
            raise BadRequest(f"A request may ask for at most {limits.max_prompts} answers in all.", param="prompt")
    demand.prompt_ids = ids_in(bytes(fields.prompt))
    if _prompts(bytes(fields.input)) > limits.max_inputs:
        raise BadRequest(f"'input' may have at most {limits.max_inputs} entries.", param="input")


def _prompts(prompt: bytes) -> int:
    """How many prompts a request for completions brings: a list of texts or of lists of token ids is several."""
    first = prompt[1:].lstrip()[:1] if prompt[:1] == b"[" else b""
    if first == b'"':
        return texts_in(prompt)
    return prompt.count(b"[") - 1 if first == b"[" else 1


def _decoded(decoder: "msgspec.json.Decoder[_Fields]", body: bytes, limits: BodyLimits) -> "_Fields":
    """The fields that the decoder is for. Raises `InvalidJSON` or `BadRequest`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as wrong:
        raise _wrong_type(str(wrong)) from None
    except msgspec.DecodeError as wrong:
        raise InvalidJSON(f"The body is not valid JSON: {_where(wrong)}.") from None
    except UnicodeDecodeError:  # of a text that is made; those that are not are looked at later
        _check_utf8(body)
        raise InvalidJSON("The body is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidJSON(f"The body is nested deeper than {limits.max_json_depth} levels.") from None


def _is_all_of(body: bytes, fields: _Usual, colons: int) -> bool:
    """Whether a body consists of these fields, each once, and of nothing else.

    Each member of an object brings a colon. Where there are no more than those of the fields that were found and those
    within messages or prompt, nothing else can be there; where there are more, it may be anything.
    """
    text, options = bytes(fields.messages) or bytes(fields.prompt) or bytes(fields.input), fields.stream_options
    expected = _USUAL_COUNT - 2 - astuple(fields).count(None)  # of the three texts there is one
    if options is not None and options.include_usage is not None:
        expected += 1
    if len(text) > _LONG_TEXT and body.startswith(text, at := body.find(text[:_BEGINNING])):
        around = body.count(b":", 0, at) + body.count(b":", at + len(text))
    else:  # it is short, so to count in it takes less than to find it; or something else begins alike
        around = colons - text.count(b":")
    return around == expected and text != b""


def _read_seldom(body: bytes, limits: BodyLimits, demand: Demand) -> None:
    """Look for what few requests have, and whether a name comes twice. Raises `InvalidJSON` or `BadRequest`."""
    fields = _decoded(_decoder, body, limits)
    if has_doubled_name(body) or (fields.stream_options and has_doubled_name(members_of(body)["stream_options"])):
        raise InvalidJSON("The body has a name twice in one object.")
    for name in _ENGINE_ONLY:
        if getattr(fields, name) is not UNSET:
            raise BadRequest(f"'{name}' steers the engine itself and is not open to callers. Leave it out.", param=name)
    _check_caps(fields, limits, demand)
    demand.has_options = fields.stream_options is not UNSET
    demand.max_tokens = demand.max_tokens or fields.max_output_tokens
    demand.n = fields.n or 1
    demand.previous_response_id = fields.previous_response_id
    demand.preset = fields.preset
    demand.resumable = demand.stream and _is_single(fields) and _has_only_text(fields)


def prompt_tokens(demand: Demand, body_bytes: int) -> int:
    """About how many tokens a prompt has, at most as many as any that is usual: what is not may be no text."""
    tokens = (body_bytes - demand.weightless) // BYTES_PER_TOKEN
    return tokens if tokens < _PROMPT_TOKENS_AT_MOST else _PROMPT_TOKENS_AT_MOST


def work_tokens(demand: Demand, body_bytes: int) -> int:
    """About how much an engine has to do, for comparing replicas: prompt tokens, and those that may be generated.

    Both are bounded; callers allow far more than comes.
    """
    most = demand.max_tokens
    if most is None:
        most = _TOKENS_NOT_SAID
    elif most > _TOKENS_AT_MOST:
        most = _TOKENS_AT_MOST
    return prompt_tokens(demand, body_bytes) + most * demand.n


def most_tokens(demand: Demand, body_bytes: int, default_max_tokens: int) -> int:
    """About how many tokens, prompt and answers, a generating request may come to; limits reserve as many."""
    most = default_max_tokens if demand.max_tokens is None else demand.max_tokens
    return (body_bytes - demand.weightless) // BYTES_PER_TOKEN + most * demand.n


def body_for_engine(
    body: bytes,
    demand: Demand,
    engine_model: str | None,
    *,
    ask_usage: bool,
    ask_ids: bool = False,
    salt: bytes = b"",
) -> bytes:
    """The bytes to send: the caller's own, or with the engine's name for the model, the usage and the token ids asked
    for, and the member that is the tenant's salt."""
    rename = engine_model is not None and engine_model != demand.model
    if not (rename or ask_usage or ask_ids or salt):
        return body
    replace_options = ask_usage and demand.has_options
    if rename or replace_options:
        body = _with_members(body, engine_model if rename else None, ask_usage=replace_options)
    added = _ASK_IDS + salt if ask_ids else salt
    if ask_usage and not replace_options:
        added = _ASK_USAGE + added
    return body.rstrip()[:-1] + added + b"}" if added else body


def _with_members(body: bytes, engine_model: str | None, *, ask_usage: bool) -> bytes:
    """A body with another model, where one is named, and with the usage asked for among its options."""
    fields: dict[str, Any] = members_of(body)
    if engine_model is not None:
        fields["model"] = engine_model
    if ask_usage:
        options: dict[str, Any] = {}
        if (own := fields.get("stream_options")) is not None and bytes(own) != b"null":
            options = members_of(own)
        options["include_usage"] = True
        fields["stream_options"] = options
    return msgspec.json.encode(fields)


def _has_only_text(fields: _Body) -> bool:
    """Whether what is said of tools and forms says that there is none."""
    said = [bytes(value) for name in _BEYOND_TEXT if (value := getattr(fields, name)) is not UNSET]
    return fields.return_token_ids is UNSET and all(value in _NONE_OF_IT for value in said)


def _is_single(fields: _Body) -> bool:
    """Whether one answer is asked for, without log-probabilities."""
    several = (fields.n or 1) > 1 or (fields.best_of or 1) > 1
    scored = (fields.logprobs is not None and fields.logprobs is not False) or fields.top_logprobs
    return not several and not scored and fields.prompt_logprobs is None


def _check_caps(fields: _Body, limits: BodyLimits, demand: Demand) -> None:
    for names, least, most in (
        (("n", "best_of"), 1, limits.max_n),
        (("max_output_tokens",), 1, limits.max_output_tokens),
        (("logprobs", "top_logprobs", "prompt_logprobs"), 0, limits.max_logprobs),
    ):
        for name in names:
            value = getattr(fields, name)
            if value is not None and value is not True and not least <= value <= most:
                raise _out_of_range(name, least, most)
    said = {name: value for name in _STRUCTURE if (value := getattr(fields, name)) is not UNSET}
    if said:
        check_structure(
            said,
            max_tools=limits.max_tools,
            max_schema_bytes=limits.max_schema_bytes,
            max_grammar_bytes=limits.max_grammar_bytes,
        )
        demand.compiles = needs_compiling(said, b"" if fields.tool_choice is UNSET else bytes(fields.tool_choice))
    if isinstance(fields.stop, list) and len(fields.stop) > limits.max_stop:
        raise BadRequest(f"'stop' may have at most {limits.max_stop} sequences.", param="stop")


def _out_of_range(name: str, least: int, most: int) -> BadRequest:
    return BadRequest(f"'{name}' must be between {least} and {most} here.", param=name)


def _wrong_type(told: str) -> BadRequest:
    """Say a msgspec type error as an API error: which parameter, what it should be."""
    found = _FIELD_IN_MESSAGE.search(told)
    if found is None:
        return InvalidJSON("The body must be a JSON object.")
    name, what = found.group(1), told.partition(" - at ")[0]
    return BadRequest(f"'{name}' has the wrong type: {what[:1].lower()}{what[1:]}.", param=name)


def _where(wrong: msgspec.DecodeError) -> str:
    told = str(wrong).removeprefix("JSON is malformed: ")
    return told[:1].lower() + told[1:] if len(told) < 120 else "malformed"


def _check_utf8(body: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    try:
        for piece in slices(body):
            decoder.decode(piece)
            at += len(piece) - len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as wrong:
        raise InvalidJSON(f"The body is not valid UTF-8 (byte {at + wrong.start}).") from None
