"""Which addresses of pictures, sounds and films a request may name: the engine fetches them, from inside our network.

Refused unless allowed: a `data:` URL brings its content along and is always taken; an http(s) URL only where the
settings name its host, letter for letter or by a suffix (`*.example.com`). So there is no list of private addresses to
keep, and no notation of one that slips through: what is not a plain host name with a plain path is refused before it is
compared.
What a host that is allowed resolves to, and redirects, are the engine's; see `engines/spec.py`.

Looked for are the names by which engines know an address, `image_url` and its like and Anthropic's `source`, wherever
a prompt may have them. What a tool was called with is no address.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from forebay.refusals import UnsupportedMediaURL

_NAME_IN_DISGUISE = re.compile(rb"\\u00[4-7]")  # a letter that needs no escape
_URL = re.compile(r"https?://([a-z0-9-]+(?:\.[a-z0-9-]+)*)(?::[0-9]{1,5})?(?:[/?#][!-\[\]-~]*)?", re.IGNORECASE)
_ALLOWED = re.compile(r"(?:\*\.(?:[a-z0-9-]+\.)+[a-z][a-z0-9-]*|[a-z0-9-]+(?:\.[a-z0-9-]+)*)")


class Prompts(msgspec.Struct):
    """What may name addresses. (A name that comes twice is refused elsewhere.)"""

    messages: Any = None
    input: Any = None
    system: Any = None
    prompt: Any = None


def may_name_any(body: bytes) -> bool:
    """Whether a body has to be looked into; nearly none has. A text's own quotes are escaped, a name's are not."""
    # (Each request is searched: `rfind` takes half of the time of `in`.)
    return body.rfind(b'url"') >= 0 or (b"\\" in body and _NAME_IN_DISGUISE.search(body) is not None)


def check_media(prompts: Prompts, hosts: frozenset[str]) -> None:
    """Raises `UnsupportedMediaURL` for the first address that is not allowed."""
    for name in Prompts.__struct_fields__:
        value = getattr(prompts, name)
        for index, item in enumerate(value if type(value) is list else [value]):
            for url in _addresses(item):
                if not _is_allowed(url, hosts):
                    raise _refusal(hosts, f"{name}[{index}]" if type(value) is list else name)


def is_host_rule(rule: str) -> bool:
    """Whether it is a host's name or address, or a suffix of names."""
    return _ALLOWED.fullmatch(rule) is not None


def _addresses(value: Any) -> Iterator[str]:
    if type(value) is list:
        for item in value:
            yield from _addresses(item)
    elif type(value) is dict:
        called = value.get("type") == "tool_use"
        for name, inner in value.items():
            if name.endswith("_url") or name == "source":
                url = inner.get("url") if type(inner) is dict else inner if name != "source" else None
                if type(url) is str:
                    yield url
            if not (called and name == "input"):
                yield from _addresses(inner)


def _is_allowed(url: str, hosts: frozenset[str]) -> bool:
    if url[:5].lower() == "data:":
        return True
    if (found := _URL.fullmatch(url)) is None:
        return False
    host = found[1].lower()
    return host in hosts or any(f"*{host[dot.start() :]}" in hosts for dot in re.finditer(r"\.", host))


def _refusal(hosts: frozenset[str], param: str) -> UnsupportedMediaURL:
    also = " or as an http(s) URL of a host that this service allows" if hosts else ""
    return UnsupportedMediaURL(
        f"Media may come as a data: URL{also} only. Send this one's content itself.", param=param
    )
