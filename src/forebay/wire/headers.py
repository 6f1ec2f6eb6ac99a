"""Headers that the gateway itself reads or writes: request ids, trace context, patience, times as OpenAI has them."""

import math
from collections.abc import Callable
from math import inf

from forebay.refusals import BadRequest

_ID_CHARACTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
_HEX_AND_DASH = b"0123456789abcdef-"
_ID_BYTES = 16
_KEYS_BEGIN = frozenset({b"sk-", b"fb-", b"hf_", b"eyJ"})
_LONGEST_NO_KEY = 16
_BATCH = 256


class RequestIds:
    """Makes unguessable request ids, 32 hex digits each, drawing bytes from `random` in batches."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._hex = ""
        self._at = 0

    def next(self) -> str:
        if self._at >= len(self._hex):
            self._hex = self._random(_ID_BYTES * _BATCH).hex()
            self._at = 0
        start = self._at
        self._at = start + 2 * _ID_BYTES
        return self._hex[start : self._at]


def accepted_request_id(value: bytes | None) -> str | None:
    """The caller's `x-request-id` if it is 1 to 128 letters, digits, '-', '_' or '.', and looks like no key or token,
    which logs would then show; None otherwise."""
    if not value or len(value) > 128 or value.translate(None, _ID_CHARACTERS):
        return None
    if value[:3] in _KEYS_BEGIN and len(value) > _LONGEST_NO_KEY:
        return None
    return value.decode("ascii")


def accepted_traceparent(value: bytes | None) -> bytes | None:
    """The caller's W3C `traceparent` if it has the form of version 00; None otherwise."""
    if value is None or len(value) != 55 or value.translate(None, _HEX_AND_DASH):
        return None
    if value[:3] != b"00-" or value[35:36] != b"-" or value[52:53] != b"-" or value.count(b"-") != 3:
        return None
    if value[3:35] == b"0" * 32 or value[36:52] == b"0" * 16:
        return None
    return value


def accepted_tracestate(value: bytes | None) -> bytes:
    """The caller's W3C `tracestate`, passed on as it is if it is printable and at most 512 bytes; else empty."""
    if value is None or len(value) > 512 or not value.isascii() or not value.decode("ascii").isprintable():
        return b""
    return value


def patience_of(headers: dict[bytes, bytes]) -> float:
    """For how long a caller will wait for its turn, seconds: as `x-request-timeout-ms` says, else as OpenAI's clients
    tell of themselves; infinity where neither does. Raises `BadRequest`."""
    if (said := headers.get(b"x-request-timeout-ms")) is not None:
        if not said.isdigit() or len(said) > 9 or int(said) == 0:
            raise BadRequest(
                "'x-request-timeout-ms' must be milliseconds, 1 to 999999999.", param="x-request-timeout-ms"
            )
        return int(said) / 1000
    if (told := headers.get(b"x-stainless-read-timeout")) is not None:
        whole = told.partition(b".")[0]
        return int(whole) if whole.isdigit() and len(whole) < 10 and int(whole) > 0 else inf
    return inf


def go_duration(seconds: float) -> bytes:
    """A time as Go writes it, rounded up to a millisecond: `12ms`, `1s`, `1.5s`, `6m0s`."""
    ms = max(math.ceil(seconds * 1000 - 1e-6), 0)
    if 0 < ms < 1000:
        return b"%dms" % ms
    minutes, rest = divmod(ms, 60_000)
    whole, fraction = divmod(rest, 1000)
    told = b"%ds" % whole if fraction == 0 else (b"%d.%03d" % (whole, fraction)).rstrip(b"0") + b"s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%s" % (hours, minutes, told)
    return b"%dm%s" % (minutes, told) if minutes else told


def limits_told(lines: bytes) -> dict[str, int]:
    """What OpenAI's header lines of limits say: `limit_requests`, `remaining_requests`, and the same of tokens."""
    told = {}
    for line in lines.splitlines():
        name, _, value = line.partition(b": ")
        what, _, of = name.removeprefix(b"x-ratelimit-").partition(b"-")
        if what in (b"limit", b"remaining") and of in (b"requests", b"tokens") and value.isdigit():
            told[f"{what.decode()}_{of.decode()}"] = int(value)
    return told
