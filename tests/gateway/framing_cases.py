"""HTTP/1.1 request framing: a corpus with its right readings, generators for more, and two reference readings.

A case is bytes that a client sends on one connection. Whatever is in them, a gateway must understand `requests` at
most, in this order and with these bodies; anything else reaching an engine is a smuggled request. How strict the
verdicts are follows ROBUSTNESS.md (C1, C4): what two parsers may read differently is refused.

    for case in CASES: ...                        # case.raw, case.allows(what_the_engine_saw, rejected)
    read_with_h11(raw), read_with_httptools(raw)  # Reading(requests, error, ...); httptools as uvicorn uses it
    @given(conversations())                       # valid requests, one after the other, with their right reading
    @given(mutated())                             # the same and the corpus, damaged
    pieces(raw)                                   # any way the bytes may arrive

All requests carry `Authorization: Bearer sk-test`, so that only framing decides. POST goes to a path that is relayed,
GET to `/v1/models`, which a gateway answers itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import h11
import httptools
from hypothesis import strategies as st

KEY = "sk-test"
HOST = b"Host: gateway.test\r\n"
FIELDS = b"Authorization: Bearer sk-test\r\nContent-Type: application/json\r\n"
TARGET = b"/v1/completions"
BODY = b'{"model":"fake-model","prompt":"x","max_tokens":1}'
OTHER_BODY = b'{"model":"fake-model","prompt":"y z","max_tokens":1}'
SMUGGLED_BODY = b'{"model":"fake-model","prompt":"smuggled","max_tokens":1}'

Verdict = Literal["ok", "reject", "either", "cut"]


@dataclass(frozen=True)
class Asked:
    """One request as understood."""

    method: str
    target: str
    body: bytes


@dataclass(frozen=True)
class Case:
    """One client's bytes and what may be made of them.

    ok      all of `requests` are answered, and nothing is refused
    reject  `requests` are answered, then one refusal with one of `statuses`, then the connection closes
    either  all of `requests` are answered; or some, and then as for reject
    cut     the client is gone before it has said all: `requests` are answered, the rest is forgotten
    """

    name: str
    raw: bytes
    why: str
    verdict: Verdict
    requests: tuple[Asked, ...] = ()
    statuses: tuple[int, ...] = (400,)
    closes: bool = False  # after the last answer, though nothing is refused

    def allows(self, understood: Sequence[Asked], rejected: bool) -> bool:
        """Whether a server may understand the bytes so."""
        whole = tuple(understood) == self.requests
        match self.verdict:
            case "ok":
                return whole and not rejected
            case "reject":
                return whole and rejected
            case "either":
                return whole or (rejected and tuple(understood) == self.requests[: len(understood)])
        return whole


def request(
    body: bytes = BODY,
    *,
    method: bytes = b"POST",
    target: bytes = TARGET,
    version: bytes = b"HTTP/1.1",
    host: bytes = HOST,
    framing: bytes | None = None,
    extra: bytes = b"",
) -> bytes:
    """A request line, header lines (`host`, ours, `framing` or a right Content-Length, `extra`) and the body."""
    if framing is None:
        framing = b"Content-Length: %d\r\n" % len(body)
    return b"%b %b %b\r\n" % (method, target, version) + host + FIELDS + framing + extra + b"\r\n" + body


def chunked(*chunks: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A body in HTTP chunks."""
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return body + b"0" + extension + b"\r\n" + trailers + b"\r\n"


TE = b"Transfer-Encoding: chunked\r\n"
GET = b"GET /v1/models HTTP/1.1\r\n" + HOST + FIELDS + b"\r\n"
SMUGGLED = request(SMUGGLED_BODY)

ASKED = Asked("POST", TARGET.decode(), BODY)
ASKED_OTHER = Asked("POST", TARGET.decode(), OTHER_BODY)
ASKED_GET = Asked("GET", "/v1/models", b"")

_HALVES = (BODY[:17], BODY[17:])
_cases: list[Case] = []


def _add(
    verdict: Verdict, name: str, raw: bytes, why: str, *requests: Asked, statuses: Any = (400,), closes: bool = False
) -> None:
    _cases.append(Case(name, raw, why, verdict, requests, statuses, closes))


def _ok(name: str, raw: bytes, why: str, *requests: Asked, closes: bool = False) -> None:
    _add("ok", name, raw, why, *requests, closes=closes)


def _reject(name: str, raw: bytes, why: str, *requests: Asked, statuses: tuple[int, ...] = (400,)) -> None:
    _add("reject", name, raw, why, *requests, statuses=statuses)


def _either(
    name: str, raw: bytes, why: str, *requests: Asked, statuses: tuple[int, ...] = (400,), closes: bool = False
) -> None:
    _add("either", name, raw, why, *requests, statuses=statuses, closes=closes)


def _cut(name: str, raw: bytes, why: str, *requests: Asked) -> None:
    _add("cut", name, raw, why, *requests)


def _framed(headers: bytes, body: bytes = b"") -> bytes:
    """A request with these framing headers, this body, and one more request behind it that must not be seen alone."""
    return request(body, framing=headers) + SMUGGLED


# Ordinary requests

_ok("get", GET, "no body", ASKED_GET)
_ok("post", request(), "content-length", ASKED)
_ok(
    "post-empty", request(b""), "content-length: 0; what is wrong is only the JSON", Asked("POST", TARGET.decode(), b"")
)
_ok("pipelined", request() + request(OTHER_BODY) + GET, "answers come in order", ASKED, ASKED_OTHER, ASKED_GET)
_ok("chunked", request(chunked(*_HALVES), framing=TE), "two chunks", ASKED)
_ok("chunked-byte-by-byte", request(chunked(*(bytes([b]) for b in BODY)), framing=TE), "a chunk a byte", ASKED)
_ok(
    "chunked-then-length",
    request(chunked(BODY), framing=TE) + request(OTHER_BODY),
    "framing is per request",
    ASKED,
    ASKED_OTHER,
)
_ok("chunk-size-capitals", request(b"%X\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n", framing=TE), "hex", ASKED)
_ok("chunked-in-capitals", request(chunked(BODY), framing=b"Transfer-Encoding: CHUNKED\r\n"), "no case", ASKED)
_ok("header-names-in-capitals", request(framing=b"CONTENT-LENGTH: %d\r\n" % len(BODY)), "no case", ASKED)
_ok("no-space-after-colon", request(framing=b"Content-Length:%d\r\n" % len(BODY)), "optional", ASKED)
_ok("space-around-value", request(framing=b"Content-Length: \t%d \t\r\n" % len(BODY)), "optional", ASKED)
_ok("empty-header-value", request(extra=b"X-Nothing:\r\n"), "allowed", ASKED)
_ok("high-bytes-in-value", request(extra=b"X-Name: \xc3\xa9\xff\r\n"), "obs-text is allowed in values", ASKED)
_ok("ninety-headers", request(extra=b"".join(b"X-H%d: v\r\n" % i for i in range(90))), "under the limits", ASKED)
_ok("header-of-16-KiB", request(extra=b"X-Long: " + b"a" * 16384 + b"\r\n"), "under the limits", ASKED)
_ok(
    "query",
    request(target=TARGET + b"?a=b&c=%20"),
    "the target goes on as it is",
    Asked("POST", TARGET.decode() + "?a=b&c=%20", BODY),
)
_ok("connection-keep-alive", request(extra=b"Connection: keep-alive\r\n") + GET, "the default", ASKED, ASKED_GET)
_ok(
    "connection-close",
    request(extra=b"Connection: close\r\n") + SMUGGLED,
    "what follows is not read",
    ASKED,
    closes=True,
)
_ok("connection-close-in-a-list", request(extra=b"Connection: x-y, Close\r\n") + SMUGGLED, "a list", ASKED, closes=True)
_ok("expect-continue", request(extra=b"Expect: 100-continue\r\n"), "the body may come at once", ASKED)
_ok("header-with-underscore", request(extra=b"content_length: 3\r\n"), "a name of its own, no framing", ASKED)

# Two framings, or one that is not clear

_CL = b"Content-Length: %d\r\n" % len(BODY)
_reject("cl-te", _framed(_CL + TE, chunked(BODY)), "CL.TE")
_reject("te-cl", _framed(TE + _CL, chunked(BODY)), "TE.CL")
_reject("cl-zero-te", _framed(b"Content-Length: 0\r\n" + TE, chunked(BODY)), "CL.TE")
_reject("cl-te-smuggling", request(b"0\r\n\r\n" + SMUGGLED, framing=b"Content-Length: 5\r\n" + TE), "CL.TE")
_reject("cl-twice-different", _framed(_CL + b"Content-Length: 0\r\n", BODY), "two lengths")
_reject("cl-twice-alike", _framed(_CL + _CL, BODY), "RFC 9112 allows refusing")
_reject("cl-list-alike", _framed(b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)), BODY), "a list")
_reject("cl-list-different", _framed(b"Content-Length: 0, %d\r\n" % len(BODY), BODY), "a list")
for _name, _value in {
    "negative": b"-1",
    "plus": b"+%d" % len(BODY),
    "hex": b"0x%x" % len(BODY),
    "underscore": b"5_0",
    "fraction": b"50.0",
    "exponent": b"5e1",
    "empty": b"",
    "word": b"many",
    "inner-space": b"5 0",
    "trailing-comma": b"%d," % len(BODY),
    "quoted": b'"%d"' % len(BODY),
    "semicolon": b"%d;a" % len(BODY),
    "arabic-digits": "٥٠".encode(),
    "65-bits": b"18446744073709551666",
    "thousand-digits": b"9" * 1000,
}.items():
    _reject(f"cl-{_name}", _framed(b"Content-Length: " + _value + b"\r\n", BODY), "not a length", statuses=(400, 413))
_either("cl-leading-zeros", request(framing=b"Content-Length: 00%d\r\n" % len(BODY)), "digits all the same", ASKED)
_reject("cl-huge", _framed(b"Content-Length: 999999999999\r\n", BODY), "a terabyte", statuses=(413, 400))
_either(
    "no-framing-then-data",
    request(framing=b""),
    "the body is none; 411 is fine too",
    Asked("POST", TARGET.decode(), b""),
    statuses=(400, 411),
)
for _name, _value in {
    "gzip": b"gzip",
    "identity": b"identity",
    "gzip-chunked": b"gzip, chunked",
    "chunked-gzip": b"chunked, gzip",
    "chunked-chunked": b"chunked, chunked",
    "chunked-identity": b"chunked, identity",
    "xchunked": b"xchunked",
    "chunkedx": b"chunkedx",
    "quoted": b'"chunked"',
    "parameter": b"chunked;q=1",
    "empty": b"",
    "comma-chunked": b", chunked",
    "vertical-tab": b"\x0bchunked",
    "nul": b"chunked\x00",
    "non-breaking-space": b"\xa0chunked",
}.items():
    _headers = b"Transfer-Encoding: " + _value + b"\r\n"
    _reject(f"te-{_name}", _framed(_headers, chunked(BODY)), "not the one coding we take", statuses=(400, 501))
_reject("te-twice", _framed(TE + TE, chunked(BODY)), "TE.TE")
_reject(
    "te-twice-different", _framed(TE + b"Transfer-Encoding: identity\r\n", chunked(BODY)), "TE.TE", statuses=(400, 501)
)
_reject("te-space-before-colon", _framed(b"Transfer-Encoding : chunked\r\n", chunked(BODY)), "RFC 9112 5.1: refuse")
_reject("te-folded", _framed(b"Transfer-Encoding:\r\n chunked\r\n", chunked(BODY)), "obs-fold")
_reject("te-on-http-1.0", request(chunked(BODY), version=b"HTTP/1.0", framing=TE) + SMUGGLED, "RFC 9112 6.1: faulty")
_reject("cl-folded", _framed(b"Content-Length:\r\n %d\r\n" % len(BODY), BODY), "obs-fold")

# Chunks

_SIZE = b"%x" % len(BODY)
for _name, _line in {
    "empty": b"",
    "word": b"xyz",
    "negative": b"-1",
    "plus": b"+" + _SIZE,
    "0x": b"0x" + _SIZE,
    "underscore": b"3_2",
    "leading-space": b" " + _SIZE,
    "65-bits": b"1" + b"0" * 13 + _SIZE + b"00",
    "thousand-digits": b"f" * 1000,
}.items():
    _raw = request(_line + b"\r\n" + BODY + b"\r\n0\r\n\r\n", framing=TE) + SMUGGLED
    _reject(f"chunk-size-{_name}", _raw, "not a size", statuses=(400, 413))
_either("chunk-size-trailing-space", request(chunked(BODY, extension=b" "), framing=TE), "BWS", ASKED)
_either("chunk-size-leading-zeros", request(b"000" + chunked(BODY), framing=TE), "hex all the same", ASKED)
_either("chunk-size-many-zeros", request(b"0" * 1000 + chunked(BODY), framing=TE), "the same, at length", ASKED)
_either("chunk-extension", request(chunked(BODY, extension=b";a=b"), framing=TE), "to be ignored", ASKED)
_either("chunk-extension-quoted", request(chunked(BODY, extension=b';a="b;c"'), framing=TE), "to be ignored", ASKED)
_either(
    "chunk-extension-large",
    request(chunked(BODY, extension=b";a=" + b"b" * 100_000), framing=TE),
    "as one likes, but not held",
    ASKED,
    statuses=(400, 413, 431),
)
_reject("chunk-extension-lf", request(b"%b;\n%b\r\n0\r\n\r\n" % (_SIZE, BODY), framing=TE) + SMUGGLED, "TERM.EXT")
_reject("chunk-extension-cr", request(b"%b;\r%b\r\n0\r\n\r\n" % (_SIZE, BODY), framing=TE) + SMUGGLED, "TERM.EXT")
_reject("chunk-size-lf", request(b"%b\n%b\r\n0\r\n\r\n" % (_SIZE, BODY), framing=TE) + SMUGGLED, "bare LF")
_reject("chunk-end-lf", request(b"%b\r\n%b\n0\r\n\r\n" % (_SIZE, BODY), framing=TE) + SMUGGLED, "bare LF")
_reject("chunk-end-missing", request(b"%b\r\n%b0\r\n\r\n" % (_SIZE, BODY), framing=TE) + SMUGGLED, "no CRLF")
_reject("chunk-too-long", request(b"%b\r\n%bX\r\n0\r\n\r\n" % (_SIZE, BODY), framing=TE) + SMUGGLED, "more than said")
_reject("chunk-last-lf", request(b"%b\r\n%b\r\n0\n\n" % (_SIZE, BODY), framing=TE) + SMUGGLED, "bare LF")
_either("trailers", request(chunked(BODY, trailers=b"X-Check: 1\r\n"), framing=TE) + GET, "dropped", ASKED, ASKED_GET)
_either(
    "trailer-framing",
    request(chunked(BODY, trailers=b"Content-Length: 3\r\n"), framing=TE) + GET,
    "no framing",
    ASKED,
    ASKED_GET,
)
_reject("trailer-bad", request(chunked(BODY, trailers=b"no colon\r\n"), framing=TE) + SMUGGLED, "not a header")
_either(
    "trailers-large",
    request(chunked(BODY, trailers=b"X-T: v\r\n" * 20_000), framing=TE),
    "as one likes, but not held",
    ASKED,
    statuses=(400, 431),
)

# Lines and characters

_LINES = request(b"", method=b"GET", target=b"/v1/models", framing=b"")
_reject("bare-lf", GET.replace(b"\r\n", b"\n"), "LF alone ends no line")
_reject("bare-lf-once", GET.replace(b"\r\nContent-Type", b"\nContent-Type"), "LF alone ends no line")
_reject("bare-lf-at-the-end", GET[:-2] + b"\n", "LF alone ends no line")
_reject("bare-cr", GET.replace(b"\r\n", b"\r"), "CR alone ends no line")
_reject("bare-cr-in-value", request(extra=b"X-A: b\rc\r\n"), "CR in a value")
_reject("bare-cr-smuggling", request(extra=b"X-A: b\rTransfer-Encoding: chunked\r\n"), "CR in a value")
_reject("lf-in-value", request(extra=b"X-A: b\nTransfer-Encoding: chunked\r\n"), "LF in a value")
_reject("cr-cr-lf", request(extra=b"X-A: b\r\r\n"), "CR in a value")
_reject("obs-fold", request(extra=b"X-A: b\r\n c\r\n"), "obs-fold")
_reject("obs-fold-tab", request(extra=b"X-A: b\r\n\tc\r\n"), "obs-fold")
_reject(
    "obs-fold-first", b"GET /v1/models HTTP/1.1\r\n " + HOST + FIELDS + b"\r\n", "whitespace before the first header"
)
for _name, _byte in {
    "nul": b"\x00",
    "bell": b"\x07",
    "vertical-tab": b"\x0b",
    "escape": b"\x1b",
    "delete": b"\x7f",
}.items():
    _reject(f"{_name}-in-value", request(extra=b"X-A: b" + _byte + b"c\r\n"), "a control character")
    _reject(f"{_name}-in-name", request(extra=b"X-" + _byte + b"A: b\r\n"), "a control character")
    _reject(f"{_name}-in-target", request(target=TARGET + b"?a=" + _byte), "a control character")
_reject("space-before-colon", request(extra=b"X-A : b\r\n"), "RFC 9112 5.1: refuse")
_reject("space-in-name", request(extra=b"X A: b\r\n"), "not a name")
_reject("no-colon", request(extra=b"X-A\r\n"), "not a header")
_reject("empty-name", request(extra=b": b\r\n"), "not a header")
_reject("high-bytes-in-name", request(extra=b"X-\xc3\xa9: b\r\n"), "not a name")
for _char in b'()<>@,;\\"/[]?={}':
    _reject(f"delimiter-in-name-{_char:02x}", request(extra=b"X-%cA: b\r\n" % _char), "not a name")

# The request line

_reject("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n", "TLS on a plain port")
_reject("empty-line-only-text", b"hello\r\n\r\n", "no request line")
_reject("http-0.9", b"GET /v1/models\r\n\r\n", "no version", statuses=(400, 505))
_either(
    "http-1.0", GET.replace(b"HTTP/1.1", b"HTTP/1.0"), "old, but clear", ASKED_GET, statuses=(400, 505), closes=True
)
_either(
    "http-1.0-keep-alive",
    GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
    "old, but clear",
    ASKED_GET,
    statuses=(400, 505),
)
_either(
    "http-1.0-post",
    request(version=b"HTTP/1.0") + SMUGGLED,
    "closes, so that what follows is not read",
    ASKED,
    statuses=(400, 505),
    closes=True,
)
_either(
    "http-1.0-without-host", b"GET /v1/models HTTP/1.0\r\n" + FIELDS + b"\r\n", "was allowed", ASKED_GET, closes=True
)
_reject(
    "http-2-preface",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "h2",
    statuses=(400, 405, 505),
)
for _name, _version in {
    "1.2": b"HTTP/1.2",
    "2.0": b"HTTP/2.0",
    "11": b"HTTP/11",
    "1": b"HTTP/1",
    "1.10": b"HTTP/1.10",
    "01.1": b"HTTP/01.1",
    "lower-case": b"http/1.1",
    "https": b"HTTPS/1.1",
    "icecast": b"ICE/1.0",
    "rtsp": b"RTSP/1.0",
    "trailing-space": b"HTTP/1.1 ",
    "trailing-word": b"HTTP/1.1 x",
    "none": b"",
}.items():
    _reject(f"version-{_name}", request(version=_version), "not HTTP/1.1", statuses=(400, 505))
_reject("target-with-space", request(target=b"/v1/completions /x"), "three parts, not four")
_either("two-spaces", GET.replace(b"GET ", b"GET  "), "one space", ASKED_GET)
_either("two-spaces-before-version", GET.replace(b" HTTP", b"  HTTP"), "one space", ASKED_GET)
_reject("tab-for-space", GET.replace(b"GET ", b"GET\t"), "one space")
_reject("leading-space", b" " + GET, "no space before the method")
_either("leading-crlf", b"\r\n" + GET, "RFC 9112 2.2: one empty line should be ignored", ASKED_GET)
_either("leading-crlfs", b"\r\n" * 100 + GET, "a hundred are too many, but harmless", ASKED_GET)
_either("crlf-between", request() + b"\r\n" + GET, "as old browsers sent", ASKED, ASKED_GET)
_either("leading-lf", b"\n" + GET, "LF alone ends no line", ASKED_GET)
_reject("high-bytes-in-target", request(target=TARGET + b"?a=\xc3\xa9"), "not ASCII")
_reject("empty-target", request(target=b""), "no target")
_reject("target-without-slash", request(target=b"v1/completions"), "no path", statuses=(400, 404))
_reject("target-fragment", request(target=TARGET + b"#x"), "a fragment is never sent", statuses=(400, 404))
_reject("target-fragment-behind-a-query", request(target=TARGET + b"?a#x"), "a fragment is never sent")
_reject("target-star", request(target=b"*"), "only for OPTIONS", statuses=(400, 404, 405))
_reject("target-absolute", request(target=b"http://gateway.test" + TARGET), "absolute-form", statuses=(400, 404))
_reject(
    "target-absolute-other-host", request(target=b"http://evil.test" + TARGET), "absolute-form", statuses=(400, 404)
)
_reject("target-absolute-https", request(target=b"https://gateway.test" + TARGET), "absolute-form", statuses=(400, 404))
_reject("target-authority", request(target=b"gateway.test:80"), "only for CONNECT", statuses=(400, 404))
_reject("target-9-KiB", request(target=TARGET + b"?a=" + b"b" * 9216), "over 8 KiB", statuses=(414, 431, 400))
_reject("target-1-MiB", request(target=TARGET + b"?a=" + b"b" * (1 << 20)), "over 8 KiB", statuses=(414, 431, 400))
_METHODS = (400, 404, 405, 501)
_reject(
    "method-connect",
    b"CONNECT evil.test:443 HTTP/1.1\r\n" + HOST + FIELDS + b"\r\n" + SMUGGLED,
    "no proxy",
    statuses=_METHODS,
)
_reject("method-trace", request(b"", method=b"TRACE") + SMUGGLED, "echoes headers", statuses=_METHODS)
_reject("method-lower-case", request(method=b"post"), "another method", statuses=_METHODS)
_reject("method-unknown", request(method=b"FETCH"), "not ours", statuses=_METHODS)
_reject("method-pri", request(method=b"PRI"), "not ours", statuses=_METHODS)
_reject("method-with-control", request(method=b"PO\x00ST"), "not a method")
_reject("method-with-colon", request(method=b"POST:"), "not a method")
_reject("method-empty", request(method=b""), "not a method")
_reject("method-long", request(method=b"A" * 10_000), "not a method", statuses=(*_METHODS, 414, 431))
_reject("method-alone", b"GET\r\n\r\n", "no target")

# Host

for _name, _host in {
    "missing": b"",
    "twice": HOST + HOST,
    "twice-different": HOST + b"Host: evil.test\r\n",
    "empty": b"Host:\r\n",
    "with-path": b"Host: x/v1/models?\r\n",
    "with-query": b"Host: x?a\r\n",
    "with-fragment": b"Host: x#a\r\n",
    "with-user": b"Host: user@gateway.test\r\n",
    "with-space": b"Host: gateway.test evil.test\r\n",
    "with-comma": b"Host: gateway.test,evil.test\r\n",
    "with-backslash": b"Host: x\\y\r\n",
    "with-tab": b"Host: a\tb\r\n",
    "with-port-word": b"Host: gateway.test:http\r\n",
    "with-two-ports": b"Host: gateway.test:80:80\r\n",
    "high-bytes": b"Host: gateway\xc3\xa9.test\r\n",
    "nul": b"Host: gateway.test\x00.evil\r\n",
    "folded": b"Host: gateway\r\n .test\r\n",
    "behind-an-address": b"Host: [::1]gateway.test\r\n",
    "half-a-bracket": b"Host: gateway]test\r\n",
    "space-before-colon": b"Host : gateway.test\r\n",
}.items():
    _reject(f"host-{_name}", request(host=_host), "BadHost", statuses=(400, 431))
_either("host-10-KiB", request(host=b"Host: " + b"a" * 10240 + b"\r\n"), "no DNS name", ASKED, statuses=(400, 431))
for _name, _host in {
    "port": b"h:8000",
    "ipv4": b"127.0.0.1:80",
    "ipv6": b"[::1]:80",
    "capitals": b"GATEWAY.test",
}.items():
    _ok(f"host-{_name}", request(host=b"Host: " + _host + b"\r\n"), "a host", ASKED)

# Limits

_TOO_LARGE = (431, 400)
_reject(
    "headers-200", request(extra=b"".join(b"X-H%d: v\r\n" % i for i in range(200))), "over 100", statuses=_TOO_LARGE
)
_reject("headers-10000", request(extra=b"A: b\r\n" * 10_000), "over 100", statuses=_TOO_LARGE)
_reject("header-of-64-KiB", request(extra=b"X-Long: " + b"a" * 65536 + b"\r\n"), "over 32 KiB", statuses=_TOO_LARGE)
_reject("header-of-1-MiB", request(extra=b"X-Long: " + b"a" * (1 << 20) + b"\r\n"), "over 32 KiB", statuses=_TOO_LARGE)
_reject("header-name-of-64-KiB", request(extra=b"a" * 65536 + b": b\r\n"), "over 32 KiB", statuses=_TOO_LARGE)
_reject("header-never-ending", request(extra=b"X-Long: " + b"a" * (1 << 20))[:-2], "over 32 KiB", statuses=_TOO_LARGE)

# Upgrade and Expect

_UPGRADE = b"Connection: Upgrade\r\nUpgrade: "
_UPGRADES = (400, 404, 405, 426, 501)
_reject(
    "upgrade-websocket",
    b"GET /v1/models HTTP/1.1\r\n"
    + HOST
    + FIELDS
    + _UPGRADE
    + b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    + SMUGGLED,
    "no upgrades",
    statuses=_UPGRADES,
)
_reject(
    "upgrade-h2c",
    request(extra=_UPGRADE + b"h2c\r\nHTTP2-Settings: AAMAAABk\r\n") + SMUGGLED,
    "no upgrades",
    statuses=_UPGRADES,
)
_either(
    "upgrade-not-connected", request(extra=b"Upgrade: h2c\r\n"), "not asked for hop by hop", ASKED, statuses=_UPGRADES
)
_reject(
    "content-encoding-twice",
    request(extra=b"Content-Encoding: gzip\r\nContent-Encoding: identity\r\n"),
    "which of them?",
    statuses=(400, 415),
)
_either("expect-other", request(extra=b"Expect: a-miracle\r\n"), "417, or ignored", ASKED, statuses=(417, 400))
_either("expect-twice", request(extra=b"Expect: 100-continue\r\n" * 2), "said twice", ASKED, statuses=(417, 400))
_ok("expect-capitals", request(extra=b"Expect: 100-Continue\r\n"), "no case", ASKED)
_either(
    "expect-http-1.0", request(version=b"HTTP/1.0", extra=b"Expect: 100-continue\r\n"), "ignored", ASKED, closes=True
)

# Behind a good request

_reject("good-then-garbage", request() + b"\x00\x01\x02 nonsense\r\n\r\n", "the first counts", ASKED)
_reject("good-then-cl-te", request() + _framed(_CL + TE, chunked(BODY)), "the first counts", ASKED)
_reject("good-then-duplicate-host", GET + request(host=HOST + HOST), "the first counts", ASKED_GET)
_either(
    "body-longer-than-said",
    request(framing=b"Content-Length: %d\r\n" % (len(BODY) - 1)),
    "one byte is left over",
    Asked("POST", TARGET.decode(), BODY[:-1]),
)

# The client goes away (to be sent with a half-close, or a close)

_cut("cut-nothing", b"", "a connection that says nothing")
_cut("cut-in-request-line", b"POST /v1/comp", "no request")
_cut("cut-in-headers", request()[:60], "no request")
_cut("cut-before-empty-line", GET[:-2], "no request")
_cut("cut-in-body", request()[:-5], "no whole request")
_cut("cut-in-chunk-size", request(b"3", framing=TE), "no whole request")
_cut("cut-in-chunk", request(chunked(BODY)[:20], framing=TE), "no whole request")
_cut("cut-before-last-chunk", request(chunked(BODY)[: -len(b"0\r\n\r\n")], framing=TE), "no whole request")
_cut("cut-in-last-chunk", request(chunked(BODY)[:-2], framing=TE), "no whole request")
_cut("cut-in-second-request", request() + request(OTHER_BODY)[:-1], "one whole request", ASKED)

CASES: tuple[Case, ...] = tuple(_cases)


# Reference readings


@dataclass(frozen=True)
class Heard(Asked):
    """A request as a parser gives it: `Asked`, and its headers with names in lower case."""

    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def asked(self) -> Asked:
        return Asked(self.method, self.target, self.body)


@dataclass
class Reading:
    """What a parser makes of a connection's bytes."""

    heard: list[Heard] = field(default_factory=list)
    error: str | None = None  # refused, after `heard`
    closed: bool = False  # the server would have closed after the last of `heard`; what follows is not read
    partial: bool = False  # within a request when the bytes ended

    @property
    def requests(self) -> tuple[Asked, ...]:
        return tuple(heard.asked for heard in self.heard)


def read_with_h11(pieces: bytes | Iterable[bytes], max_head_bytes: int = 64 * 1024) -> Reading:
    """How a server on h11 reads the bytes, answering each request as soon as it is whole."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)
    reading = Reading()
    head: h11.Request | None = None
    body = b""
    pending = [pieces] if isinstance(pieces, bytes) else list(pieces)
    pending.reverse()
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if not pending:
                    break
                data = pending.pop()
                if data:  # nothing would mean that the connection has ended
                    connection.receive_data(data)
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                reading.closed = True
                return reading
            elif isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                method, target = head.method.decode(), head.target.decode("latin-1")
                reading.heard.append(Heard(method, target, body, tuple(head.headers)))
                head = None
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    reading.closed = True
                    return reading
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        reading.error = str(error)
        return reading
    reading.partial = head is not None or bool(connection.trailing_data[0])
    return reading


def read_with_httptools(pieces: bytes | Iterable[bytes]) -> Reading:
    """How uvicorn reads the bytes with httptools, its leniency and its treatment of upgrades included."""
    server = _UvicornLike()
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        server.data_received(piece)
    return server.reading


class _UvicornLike:
    """The parsing half of uvicorn's HttpToolsProtocol."""

    def __init__(self) -> None:
        self.reading = Reading()
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def data_received(self, data: bytes) -> None:
        if self.reading.closed or self.reading.error:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # uvicorn goes on as if nothing had been asked, and what else was in `data` is lost
        except httptools.HttpParserError as error:
            if not self.reading.closed:
                self.reading.error = f"{error}{f' ({error.__context__})' if error.__context__ else ''}"

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""
        self.reading.partial = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        httptools.parse_url(self._url).path.decode("ascii")
        version = self._parser.get_http_version()
        self._method = self._parser.get_method().decode("ascii")
        self._keep_alive = version != "1.0" and self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self.reading.closed:
            return
        self.reading.partial = False
        target = self._url.decode("latin-1")
        self.reading.heard.append(Heard(self._method, target, self._body, tuple(self._headers)))
        self.reading.closed = not self._keep_alive


# Generators

_TOKEN_CHARS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_names = st.text(_TOKEN_CHARS, min_size=1, max_size=12).map(lambda name: b"X-" + name.encode())
_values = st.text(
    st.characters(codec="latin-1", categories=["L", "N", "P", "S", "Zs"], exclude_characters="\xa0\xad"), max_size=20
).map(lambda value: value.encode("latin-1").strip())
_extra = st.lists(st.tuples(_names, _values), max_size=5)
_bodies = st.one_of(st.just(BODY), st.binary(max_size=200), st.binary(max_size=20).map(lambda data: data * 200))
_queries = st.text("abc123&=%-._~/?:@!$'()*+,;", max_size=20).map(lambda text: b"?" + text.encode() if text else b"")

_NASTY: tuple[bytes, ...] = (
    *(bytes([byte]) for byte in b"\r\n\x00 \t\x0b\x7f\xff:,;0"),
    *(b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\n ", b";a=b", b"0\r\n\r\n", b"chunked", b"HTTP/1.1", b"HTTP/1.0"),
    *(b"Content-Length", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n"),
    *(TE, b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n"),
    *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"),
    *(HOST, b"Host: evil.test\r\n", SMUGGLED, GET),
)


@st.composite
def valid_requests(draw: st.DrawFn) -> tuple[bytes, Asked]:
    """A request that every right parser takes, and its reading. Its connection stays open."""
    extra = b"".join(name + b": " + value + b"\r\n" for name, value in draw(_extra))
    target = draw(st.sampled_from([TARGET, b"/v1/chat/completions", b"/tokenize"])) + draw(_queries)
    kind = draw(st.sampled_from(["get", "length", "chunked"]))
    if kind == "get":
        raw = request(b"", method=b"GET", target=target, framing=b"", extra=extra)
        return raw, Asked("GET", target.decode(), b"")
    body = draw(_bodies)
    if kind == "length":
        return request(body, target=target, extra=extra), Asked("POST", target.decode(), body)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=5)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if start < end]
    raw = request(chunked(*chunks), target=target, framing=TE, extra=extra)
    return raw, Asked("POST", target.decode(), body)


def conversations(max_size: int = 4) -> st.SearchStrategy[tuple[bytes, tuple[Asked, ...]]]:
    """Valid requests one after the other on one connection, and their reading."""
    return st.lists(valid_requests(), min_size=1, max_size=max_size).map(
        lambda parts: (b"".join(raw for raw, _ in parts), tuple(asked for _, asked in parts))
    )


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A conversation or a case of the corpus, damaged in one to three places."""
    small = [case.raw for case in CASES if len(case.raw) < 4096]
    raw = draw(st.one_of(conversations(2).map(lambda part: part[0]), st.sampled_from(small)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(raw)))
        end = min(start + draw(st.integers(0, 8)), len(raw))
        put = draw(st.one_of(st.sampled_from(_NASTY), st.binary(max_size=3), st.just(raw[start:end] * 2)))
        raw = raw[:start] + put + raw[end:]
    return raw


@st.composite
def pieces(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """One way the bytes may arrive."""
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if start < end]
