"""C14: which addresses a request may have an engine fetch."""

import json
import re
from typing import Any

import pytest

from forebay.refusals import BadRequest, UnsupportedMediaURL
from forebay.wire.body import BodyLimits, most_tokens, prompt_tokens, read_demand, work_tokens
from forebay.wire.media import TOKENS_A_PIECE, is_host_rule

HOSTS = frozenset({"images.example.com", "*.cdn.example.org", "10.0.0.5"})
REFUSED = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:169.254.169.254]/latest/meta-data",
    "http://169.254.169.254/latest/meta-data",
    "http://10.0.0.6/",
    "http://localhost/",
    "http://metadata.google.internal/",
    "http://images.example.com./",
    "http://images.example.com@127.0.0.1/",
    "http://user:password@images.example.com/",
    "http://127.0.0.1\\@images.example.com/",
    "http://images.example.com\\@127.0.0.1/",
    "http:\\\\images.example.com/",
    "http://images.example.com:80:90/",
    "http://images.example.com:/",
    "http://images.example.com#@127.0.0.1 /",
    "http://images.example.com/\r\nHost: x",
    "http://images.example.com/a b",
    "http://images.example.com%2eevil.test/",
    "http://images.example.com.evil.test/",
    "http://evilimages.example.com/",
    "http://cdn.example.org/",
    "http://.cdn.example.org/",
    "http://x.cdn.example.org.evil.test/",
    "http://ımages.example.com/",
    "http://images。example。com/",
    " http://images.example.com/",
    "\thttp://images.example.com/",
    "http://images.example.com/\n",
    "//images.example.com/",
    "http:images.example.com/",
    "http:///images.example.com/",
    "https//images.example.com/",
    "file:///etc/passwd",
    "file://images.example.com/etc/passwd",
    "FILE:///etc/passwd",
    "ftp://images.example.com/",
    "gopher://127.0.0.1:6379/",
    "httpx://images.example.com/",
    "/etc/passwd",
    "javascript:0",
    " data:image/png;base64,AAAA",
    "",
]
ALLOWED = [
    "https://images.example.com",
    "https://images.example.com/a.png?b=c@d#e",
    "HTTPS://Images.Example.COM:8443/a%20b",
    "http://a.cdn.example.org/x",
    "http://a.b.cdn.example.org/x",
    "http://10.0.0.5/x",
    "data:image/png;base64,iVBORw0KGgo=",
    "DATA:image/png;base64,iVBORw0KGgo=",
]


def limits(hosts: frozenset[str] = HOSTS) -> BodyLimits:
    return BodyLimits(8, 20, 4, 10**6, 64, 1000, media_hosts=hosts)


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "look"}, {"role": "user", "content": list(parts)}]}


def refused(fields: dict[str, Any], hosts: frozenset[str] = HOSTS) -> str | None:
    """The parameter that is refused, None for a request that may go."""
    try:
        read_demand(json.dumps({"model": "m", **fields}).encode(), limits(hosts))
    except UnsupportedMediaURL as refusal:
        return refusal.param
    return None


def test_the_refusal_says_what_may_come_instead_and_names_no_host() -> None:
    for hosts in (frozenset[str](), HOSTS):
        with pytest.raises(UnsupportedMediaURL, match="data: URL") as told:
            read_demand(b'{"model":"m","messages":[{"content":[{"image_url":"http://evil.test/"}]}]}', limits(hosts))
        assert (told.value.status, told.value.code) == (400, "unsupported_media_url")
        assert not {"example", "evil"} & set(re.findall("[a-z]+", told.value.message))


@pytest.mark.parametrize("url", REFUSED)
def test_an_address_that_is_not_allowed_is_refused_however_it_is_written(url: str) -> None:
    assert refused(user({"type": "image_url", "image_url": {"url": url}})) == "messages[1]"


@pytest.mark.parametrize("url", ALLOWED)
def test_an_address_of_an_allowed_host_may_go(url: str) -> None:
    assert refused(user({"type": "image_url", "image_url": {"url": url}})) is None


def test_without_allowed_hosts_only_contents_may_go() -> None:
    for url in ALLOWED:
        part = {"type": "image_url", "image_url": {"url": url}}
        assert (refused(user(part), frozenset()) is None) == url.lower().startswith("data:")


FORMS: list[tuple[dict[str, Any], str]] = [
    (user({"type": "image_url", "image_url": {"url": "http://10.1.1.1/"}}), "messages[1]"),
    (user({"image_url": "http://10.1.1.1/"}), "messages[1]"),
    (user({"type": "image_url", "uuid": "u", "image_url": {"url": "http://10.1.1.1/"}}), "messages[1]"),
    (user({"type": "audio_url", "audio_url": {"url": "http://10.1.1.1/"}}), "messages[1]"),
    (user({"type": "video_url", "video_url": {"url": "file:///x"}}), "messages[1]"),
    (user({"type": "image", "source": {"type": "url", "url": "http://10.1.1.1/"}}), "messages[1]"),
    (
        user({"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": "http://x/"}}]}),
        "messages[1]",
    ),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/"}]}]}, "input[0]"),
    ({"input": [{"type": "function_call_output", "output": {"image_url": "http://x/"}}]}, "input[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x/"}]}]}, "input[0]"),
    ({"system": [{"type": "image", "source": {"type": "url", "url": "http://x/"}}], "messages": []}, "system[0]"),
]


@pytest.mark.parametrize(("fields", "param"), FORMS)
def test_an_address_is_found_wherever_an_engine_would_find_it(fields: dict[str, Any], param: str) -> None:
    assert refused(fields) == param


@pytest.mark.parametrize("escaped", ['"image_\\u0075rl"', '"image_ur\\u006C"', '"image\\u005furl"'])
def test_an_escape_hides_no_name_and_no_address(escaped: str) -> None:
    for name, value in ((escaped, '"http://10.1.1.1/"'), ('"image_url"', '"\\u0068ttp://10.1.1.1/"')):
        body = f'{{"model":"m","messages":[{{"role":"user","content":[{{{name}:{value}}}]}}]}}'
        with pytest.raises(UnsupportedMediaURL):
            read_demand(body.encode(), limits())


@pytest.mark.parametrize(
    "fields",
    [
        user({"type": "text", "text": 'Is "image_url":"http://10.1.1.1/" an address? No: a text that ends in url'}),
        user({"type": "tool_use", "name": "get", "input": {"image_url": "http://10.1.1.1/", "url": "http://x/"}}),
        user({"type": "image_url", "image_url": None, "uuid": "u"}),
        user({"type": "image", "source": {"type": "base64", "data": "AAAA"}}, {"type": "text", "text": "url"}),
        {"messages": [], "tools": [{"type": "function", "function": {"parameters": {"image_url": "http://x/"}}}]},
        {"prompt": "http://10.1.1.1/ image_url"},
    ],
)
def test_what_no_engine_fetches_is_no_address(fields: dict[str, Any]) -> None:
    assert refused(fields) is None


@pytest.mark.parametrize(
    ("part", "pieces"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,DATA"}}, 1),
        ({"type": "input_image", "image_url": "data:image/png;base64,DATA"}, 1),
        ({"type": "input_audio", "input_audio": {"data": "DATA", "format": "wav"}}, 1),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "DATA"}}, 1),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": "DATA"}}]}, 1),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "DATA"}}, 0),
        ({"type": "text", "text": "DATA"}, 0),
        ({"type": "text", "text": 'of "image_url" and "input_audio" DATA'}, 0),
    ],
)
def test_media_are_estimated_by_the_piece_and_texts_by_their_length(part: dict[str, Any], pieces: int) -> None:
    def estimates(*parts: dict[str, Any]) -> list[int]:
        body = json.dumps({"model": "m", "max_tokens": 10, **user(*parts)}).encode()
        demand = read_demand(body, limits())
        size = len(body)
        return [prompt_tokens(demand, size), work_tokens(demand, size) - 10, most_tokens(demand, size, 0) - 10]

    content = json.loads(json.dumps(part).replace("DATA", "A" * 100_000))
    expected = TOKENS_A_PIECE if pieces else 25_000
    for tokens in estimates(content):
        assert expected <= tokens < expected + 100
    for tokens in estimates(*[content] * 20)[:2]:
        assert tokens == 32_768 if not pieces else 20 * expected <= tokens < 20 * expected + 1000


def test_what_hides_beside_a_content_is_found() -> None:
    for name in ("input_audio", "source"):
        part = {"type": name, name: {"data": "AAAA", "inner": {"image_url": "http://10.1.1.1/"}}}
        assert refused(user(part)) == "messages[1]"


@pytest.mark.parametrize("rule", ["*", "*.com", "*.0.1", "*.10.0.0.1", "http://x", "x/y", "x:80", "X.test", "", "a..b"])
def test_a_rule_that_is_no_host_is_refused(rule: str) -> None:
    assert not is_host_rule(rule)


def test_a_number_that_nothing_can_hold_beside_an_address_is_refused() -> None:
    with pytest.raises(BadRequest):
        read_demand(b'{"model":"m","messages":[{"content":[{"image_url":"data:x","x":1e999}]}]}', limits())
