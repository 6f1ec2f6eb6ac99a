"""What a request's head must be, beyond what the parser refuses.

llhttp refuses what is ambiguous about lengths, chunks, line ends and folding. The rest, which two servers in a row
could still read differently, is refused here: odd methods, versions and targets, a Host that is missing, doubled or
more than a host, encodings and upgrades that nobody here speaks.
"""

from collections.abc import Sequence

from forebay.refusals import BodyTooLarge, InvalidHeader, MethodNotAllowed, Unauthorized, UnsupportedMediaType

Field = tuple[bytes, bytes]

_METHODS = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS"})
_NAME_CHARACTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._%"
_ADDRESS_CHARACTERS = _NAME_CHARACTERS + b":"  # of IPv6, in brackets
_ONCE = (b"host", b"x-api-key", b"content-type", b"content-encoding", b"x-request-id", b"traceparent", b"expect")


def check_line(method: bytes, target: bytes, version: str) -> None:
    """Refuse a request line that is not plain HTTP/1.1 or 1.0. Raises `Refusal`."""
    if version not in ("1.1", "1.0"):
        raise InvalidHeader(f"HTTP/{version} is not spoken here; use HTTP/1.1.", code="invalid_http")
    if method not in _METHODS:
        refusal = MethodNotAllowed("This method is not offered.")
        refusal.close = True
        raise refusal
    if target[:1] != b"/" or b"#" in target or not target.isascii():
        raise InvalidHeader("The request target must be a path that starts with '/'.", code="invalid_url")


def check_fields(fields: Sequence[Field], headers: dict[bytes, bytes], version: str, max_body_bytes: int) -> int:
    """Refuse header fields that must not be, or not twice; `headers` is the dictionary of `fields`.

    Returns the body's declared length, 0 where none is declared. Raises `Refusal`.
    """
    if len(headers) != len(fields):
        _check_doubled([name for name, _ in fields])
    if b"upgrade" in headers:
        raise InvalidHeader("Upgrades are not offered.")
    coding = headers.get(b"transfer-encoding")
    if coding is not None and (coding.lower() != b"chunked" or version != "1.1"):
        raise InvalidHeader("Transfer-Encoding must be 'chunked', in HTTP/1.1.")
    content_coding = headers.get(b"content-encoding")
    if content_coding is not None and content_coding.lower() != b"identity":
        refusal = UnsupportedMediaType("Compressed bodies are not accepted; send it uncompressed.")
        refusal.close = True
        raise refusal
    expect = headers.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise InvalidHeader("Only 'Expect: 100-continue' is understood.")
    length = int(headers.get(b"content-length", 0))
    if length > max_body_bytes:
        raise BodyTooLarge(f"The body is larger than {max_body_bytes} bytes.")
    return length


def check_host(host: bytes | None, version: str) -> None:
    """Refuse a Host that is missing (HTTP/1.0 may) or is not a name or address, perhaps with a port."""
    if not (_is_host(host) if host is not None else version == "1.0"):
        raise InvalidHeader("The Host header is missing or not valid.", code="invalid_host")


def check_json(content_type: bytes | None) -> None:
    """Refuse a body that is not said to be JSON: any other a page elsewhere can send with its reader's browser."""
    if content_type == b"application/json":
        return
    if content_type is None or content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType("The body must be JSON: send 'Content-Type: application/json'.")


def _is_host(host: bytes) -> bool:
    name, colon, port = host.rpartition(b":") if not host.endswith(b"]") else (host, b"", b"")
    if not colon:
        name = host
    if not name or (colon and not port.isdigit()):
        return False
    if name[:1] == b"[":
        return len(name) > 2 and name[-1:] == b"]" and not name[1:-1].translate(None, _ADDRESS_CHARACTERS)
    return not name.translate(None, _NAME_CHARACTERS)


def _check_doubled(names: list[bytes]) -> None:
    if names.count(b"authorization") > 1:
        raise Unauthorized("There is more than one Authorization header.")
    for name in _ONCE:
        if names.count(name) > 1:
            raise InvalidHeader(f"There is more than one {name.decode()} header.")
