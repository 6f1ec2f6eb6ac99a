"""Header lines that let browsers at other origins read an answer, made once for each origin."""

from collections.abc import Iterable

EXPOSED_HEADERS = b"x-request-id, request-id, retry-after, x-should-retry, x-forebay-cache" + b"".join(
    b", x-ratelimit-%s-%s" % (what, kind)
    for what in (b"limit", b"remaining", b"reset")
    for kind in (b"requests", b"tokens")
)


def lines_by_origin(origins: Iterable[str]) -> dict[str, bytes]:
    """The lines for each of the origins that may call."""
    return {origin: _lines(origin) for origin in origins}


def _lines(origin: str) -> bytes:
    lines = f"access-control-allow-origin: {origin}\r\nvary: origin\r\n".encode()
    return lines + b"access-control-expose-headers: %s\r\n" % EXPOSED_HEADERS
