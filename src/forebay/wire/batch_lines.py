"""The lines of a batch: what is asked, as OpenAI has it, and what is written of it.

    asked     {"custom_id": "…", "method": "POST", "url": "/v1/…", "body": {…}}
    answered  {"id": "…", "custom_id": "…", "error": null,
               "response": {"status_code": 200, "request_id": "…", "body": {…}}}
    failed    the same with another status, or with no response and an error

A journal keeps what is answered with the number of the line that asked, so that each is found again.
"""

from typing import Any

import msgspec
from msgspec import Raw

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_CUSTOM_ID = 512
_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")  # between a JSON value's parts; in its texts there can be none


class WrongLine(ValueError):
    """A line that is no request; `field` is what is wrong with it."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class Line(msgspec.Struct):
    """One request."""

    custom_id: str
    method: str
    url: str
    body: Raw


class Kept(msgspec.Struct):
    """What is in a journal: the number of the line that asked, whether it was answered with 200, what is written."""

    number: int
    ok: bool
    line: Raw


class _Stream(msgspec.Struct):
    stream: Any = None


_lines = msgspec.json.Decoder(Line)
_streams = msgspec.json.Decoder(_Stream)
_kept = msgspec.json.Decoder(Kept)
_bodies = msgspec.json.Decoder(dict[str, Raw])
_raw = msgspec.json.Decoder(Raw)


def read_line(text: bytes, endpoint: str | None = None) -> Line:
    """The request that a line is; to one endpoint where that is named. Raises `WrongLine`."""
    try:
        line = _lines.decode(text)
        streams = _streams.decode(line.body).stream
    except msgspec.ValidationError as wrong:
        raise WrongLine("invalid_request", f"Not a request: {wrong}.") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise WrongLine("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID:
        raise WrongLine("invalid_custom_id", f"custom_id must have 1 to {MAX_CUSTOM_ID} characters.", "custom_id")
    if line.method != "POST":
        raise WrongLine("invalid_method", "method must be POST.", "method")
    if line.url not in ENDPOINTS or line.url != (endpoint or line.url):
        raise WrongLine("invalid_url", f"url must be {endpoint or ' or '.join(ENDPOINTS)}.", "url")
    if streams not in (None, False):
        raise WrongLine("invalid_request", "A batch has no streams: leave 'stream' out.", "body.stream")
    return line


def with_model(body: bytes, model: str) -> bytes:
    """A request's body with another model."""
    return msgspec.json.encode({**_bodies.decode(body), "model": model})


def answer_line(name: str, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """What is written of an answer. Raises ValueError where its body is no JSON."""
    told = Raw(bytes(_raw.decode(body)).translate(_TO_SPACES))
    response = {"status_code": status, "request_id": request_id, "body": told}
    return msgspec.json.encode({"id": name, "custom_id": custom_id, "response": response, "error": None})


def error_line(name: str, custom_id: str, code: str, message: str) -> bytes:
    """What is written where there is no answer."""
    error = {"code": code, "message": message}
    return msgspec.json.encode({"id": name, "custom_id": custom_id, "response": None, "error": error})


def keep(number: int, ok: bool, line: bytes) -> bytes:
    """A journal's line."""
    return msgspec.json.encode(Kept(number, ok, Raw(line))) + b"\n"


def read_kept(text: bytes) -> Kept | None:
    """A journal's line; None where it was cut short."""
    try:
        return _kept.decode(text) if text.endswith(b"\n") else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
