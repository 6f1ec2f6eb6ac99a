"""Token counts as engines report them, in any of the three API styles, in whole answers and in stream events."""

from contextlib import suppress
from json import JSONDecoder
from typing import Any

import msgspec

from forebay.wire.sse import data_of

BYTES_PER_TOKEN = 4
DECODED_BYTES = 16 << 20  # what takes a hundredth of a second
_USAGE_BYTES = 4096
_USAGE = b'"usage":'


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    input_tokens_details: _PromptDetails | None = None
    cache_read_input_tokens: int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Inner(msgspec.Struct):
    """What Anthropic's `message_start` and the Responses API's events wrap their usage in."""

    usage: _Counts | None = None
    id: str | None = None


class Answer(msgspec.Struct):
    """What the gateway needs to know of an engine's answer or of one event of it."""

    id: str | None = None
    usage: _Counts | None = None
    choices: list[_Choice] | None = None
    message: _Inner | None = None
    response: _Inner | None = None
    error: Any = None
    metrics: Any = None  # timings of the engine's, where it tells them (`timings.py`)


class _Text(msgspec.Struct):
    content: str | None = None
    text: str | None = None
    message: "_Text | None" = None


class _Texts(msgspec.Struct):
    """The texts of a whole answer, as completions, chats and Anthropic's messages have them."""

    choices: list[_Text] = []
    content: list[_Text] = []


class Usage(msgspec.Struct):
    """Tokens of one request, as told by the engine."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


# A chat answer's `message` inside `choices` is no `_Inner`; only top-level ones are read, so decoding stays shallow.
_decoder = msgspec.json.Decoder(Answer)
_texts_decoder = msgspec.json.Decoder(_Texts)
_any_decoder = JSONDecoder()
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_answer(body: bytes | bytearray) -> Answer | None:
    """Decode an answer, or the data of an event; None where it is not the JSON object an engine sends.

    One of more than `DECODED_BYTES`, embeddings or log-probabilities by the hundred thousand, is not decoded, which
    would hold everybody up: its two ends are looked at, and the usage, which engines put behind all that is long.
    """
    if len(body) > DECODED_BYTES:
        return _read_ends(body)
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError:
        return _read_loosely(body)
    except (msgspec.DecodeError, RecursionError):
        return None


def read_event(event: bytes) -> Answer | None:
    """Decode what an event says; None for `[DONE]`, comments and anything that is not a JSON object."""
    return read_answer(data_of(event))


def usage_of(answer: Answer) -> Usage | None:
    """The token counts in an answer or event, None where it has none."""
    counts = answer.usage
    if counts is None and answer.response is not None:
        counts = answer.response.usage
    if counts is None and answer.message is not None:
        counts = answer.message.usage
    if counts is None:
        return None
    details = counts.prompt_tokens_details or counts.input_tokens_details
    cached = (details.cached_tokens if details else None) or counts.cache_read_input_tokens
    return Usage(
        counts.prompt_tokens or counts.input_tokens or 0,
        counts.completion_tokens or counts.output_tokens or 0,
        cached or 0,
    )


def tokens_in(body: bytes | bytearray) -> int:
    """About how many tokens a whole answer took, at least 1, for where the engine does not tell."""
    if len(body) > DECODED_BYTES:
        return len(body) // BYTES_PER_TOKEN
    try:
        texts = _texts_decoder.decode(body)
    except msgspec.DecodeError:  # of another form than known
        return max(len(body) // BYTES_PER_TOKEN, 1)
    said = ((one.message or one) for one in (*texts.choices, *texts.content))
    return max(sum(len((one.content or one.text or "").encode()) for one in said) // BYTES_PER_TOKEN, 1)


def is_aborted(answer: Answer) -> bool:
    """Whether the engine gave the request up: it says so inside an answer of status 200."""
    for choice in answer.choices or ():  # noqa: SIM110 (a generator costs three times as much, and every answer passes)
        if choice.finish_reason == "abort":
            return True
    return False


def _read_ends(body: bytes | bytearray) -> Answer | None:
    """A name within a text has its quotes escaped, so this is the object's, or an inner object's, never a model's."""
    if body[:1] != b"{" or body[-1:] != b"}":
        return None
    answer = Answer(choices=[])
    at = body.rfind(_USAGE)
    if at >= 0:
        told = body[at + len(_USAGE) : at + _USAGE_BYTES].decode("utf-8", "replace")
        with suppress(ValueError, RecursionError, msgspec.ValidationError):
            answer.usage = msgspec.convert(_any_decoder.raw_decode(told.lstrip())[0], _Counts)
    return answer


def _read_loosely(body: bytes | bytearray) -> Answer | None:
    """An object whose fields are of other types than expected is still an answer; it just tells us nothing."""
    try:
        _raw_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    return Answer(choices=[])
