"""Which addresses of pictures, sounds and films a request may name: the engine fetches them, from inside our network.

Refused unless allowed: a `data:` URL brings its content along and is always taken; an http(s) URL only where the
settings name its host, letter for letter or by a suffix (`*.example.com`). So there is no list of private addresses to
keep, and no notation of one that slips through: what is not a plain host name with a plain path is refused before it is
compared.
What a host that is allowed resolves to, and redirects, are the engine's; see `engines/spec.py`.

Looked for are the names by which engines know an address, `image_url` and its like and Anthropic's `source`, wherever
a prompt may have them. What a tool was called with is no address. What a request brings along of media is weighed: its
megabytes are few tokens.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from forebay.refusals import UnsupportedMediaURL

# About what a picture comes to at an engine: Qwen2-VL makes a token of 28 x 28 pixels, so 1,000 of 885 x 885; of sounds
# and films it is a guess. Limits are settled by what the engine counts.
TOKENS_A_PIECE = 1000

_NAME_IN_DISGUISE = re.compile(rb"\\u00[4-7]")  # a letter that needs no escape
_URL = re.compile(r"https?://([a-z0-9-]+(?:\.[a-z0-9-]+)*)(?::[0-9]{1,5})?(?:[/?#][!-\[\]-~]*)?", re.IGNORECASE)
_CONTENTS = ("source", "input_audio")  # Anthropic's, where it is no text, and OpenAI's for sounds
_ALLOWED = re.compile(r"(?:\*\.(?:[a-z0-9-]+\.)+[a-z][a-z0-9-]*|[a-z0-9-]+(?:\.[a-z0-9-]+)*)")


class Prompts(msgspec.Struct):
    """What may name addresses. (A name that comes twice is refused elsewhere.)"""

    messages: Any = None
    input: Any = None
    system: Any = None
    prompt: Any = None


def may_have_media(body: bytes) -> bool:
    """Whether a body has to be looked into; nearly none has. A text's own quotes are escaped, a name's are not."""
    # (Each request is searched: `rfind` takes half of the time of `in`.)
    named = body.rfind(b'url"') >= 0 or body.rfind(b'"source"') >= 0 or body.rfind(b'"input_audio"') >= 0
    return named or (b"\\" in body and _NAME_IN_DISGUISE.search(body) is not None)


def check_media(prompts: Prompts, hosts: frozenset[str]) -> tuple[int, int]:
    """How many pieces of media a request brings along, and their characters in all.

    Raises `UnsupportedMediaURL` for the first address that is not allowed.
    """
    count = size = 0
    for name in Prompts.__struct_fields__:
        value = getattr(prompts, name)
        for index, item in enumerate(value if type(value) is list else [value]):
            for told, is_content in _media(item):
                if is_content or told[:5].lower() == "data:":
                    count += 1
                    size += len(told)
                elif not _is_allowed(told, hosts):
                    raise _refusal(hosts, f"{name}[{index}]" if type(value) is list else name)
    return count, size


def is_host_rule(rule: str) -> bool:
    """Whether it is a host's name or address, or a suffix of names."""
    return _ALLOWED.fullmatch(rule) is not None


def _media(value: Any) -> Iterator[tuple[str, bool]]:
    """Each address, and each content that comes without one, which is true then."""
    if type(value) is list:
        for item in value:
            yield from _media(item)
    elif type(value) is dict:
        called = value.get("type") == "tool_use"
        for name, inner in value.items():
            if name.endswith("_url") or name == "source":
                url = inner.get("url") if type(inner) is dict else inner if name != "source" else None
                if type(url) is str:
                    yield url, False
            if name in _CONTENTS and type(content := _content_of(inner)) is str:
                yield content, True
            if not (called and name == "input"):
                yield from _media(inner)


def _content_of(part: Any) -> Any:
    return part.get("data") if type(part) is dict and part.get("type") != "text" else None


def _is_allowed(url: str, hosts: frozenset[str]) -> bool:
    if (found := _URL.fullmatch(url)) is None:
        return False
    host = found[1].lower()
    return host in hosts or any(f"*{host[dot.start() :]}" in hosts for dot in re.finditer(r"\.", host))


def _refusal(hosts: frozenset[str], param: str) -> UnsupportedMediaURL:
    also = " or as an http(s) URL of a host that this service allows" if hosts else ""
    return UnsupportedMediaURL(
        f"Media may come as a data: URL{also} only. Send this one's content itself.", param=param
    )
