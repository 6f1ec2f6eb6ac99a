"""Whom a load asks: one server's address, key, model and endpoint, and how many tokens its prompts are.

Any server that speaks OpenAI's API will do. Where it also has vLLM's `/tokenize`, tokens are counted there; else by the
`usage` of an answer.
"""

from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Any

import msgspec

from forebay import __version__
from forebay.failures import Failure
from forebay.loadgen.prompts import WORDS, Prompt, Scale, said
from forebay.upstream.fetch import fetch
from forebay.upstream.pool import Address, UpstreamPool

TIMEOUT_S = 60.0  # of questions about the server; those of the load have their own
_FEW, _MANY = 8, 256  # words
_WHAT_TO_DO = {
    401: "set FOREBAY_API_KEY to a key that it knows",
    403: "use a key that may do this",
    404: "does the URL lead to an OpenAI-compatible server, and does it have this model?",
}


class NoServer(Exception):
    """The server cannot be asked; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """See the module's text. `extra` is added to every body."""

    address: Address
    key: str | None = None
    model: str = ""
    chat: bool = True
    extra: tuple[tuple[str, Any], ...] = ()

    def question(self, prompt: Prompt) -> bytes:
        """The whole request of a prompt whose answer is streamed."""
        text: dict[str, Any] = {"messages": prompt.messages} if self.chat else {"prompt": prompt.text}
        limit = {"max_completion_tokens" if self.chat else "max_tokens": prompt.max_tokens}
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        path = "/v1/chat/completions" if self.chat else "/v1/completions"
        return self.request(f"POST {path}", {"model": self.model} | text | limit | stream | dict(self.extra))

    def request(self, what: str, body: dict[str, Any] | None = None) -> bytes:
        """A whole request of this server."""
        method, path = what.split(" ")
        data = msgspec.json.encode(body) if body is not None else b""
        lines = [f"{method} {self.address.prefix}{path} HTTP/1.1", f"host: {self.address.authority}"]
        lines += [f"user-agent: forebay-bench/{__version__}", f"content-length: {len(data)}"]
        lines += ["content-type: application/json"] if data else []
        lines += [f"authorization: Bearer {self.key}"] if self.key else []
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


async def with_model(target: Target, pool: UpstreamPool) -> Target:
    """The target, with the first model that the server lists where none was named. Raises `NoServer`."""
    if target.model:
        return target
    answer = await _asked(pool, target.request("GET /v1/models"))
    models = [str(card["id"]) for card in answer.get("data") or () if isinstance(card, dict) and card.get("id")]
    if not models:
        raise NoServer("the server lists no model; name one with --model")
    return replace(target, model=models[0])


async def measured_scale(target: Target, pool: UpstreamPool) -> Scale:
    """How many tokens the server makes of words; one of each where it does not tell. Raises `NoServer`."""
    few, many = [said(" ".join((WORDS * 3)[:count]), 1) for count in (_FEW, _MANY)]
    fewer, more = await _tokens(target, pool, few), await _tokens(target, pool, many)
    per_word = (more - fewer) / (_MANY - _FEW)
    return Scale(max(fewer - per_word * _FEW, 0.0), per_word) if per_word > 0 else Scale()


async def tokens_per_character(target: Target, pool: UpstreamPool, text: str) -> float:
    """How many tokens the server makes of a character of such a text. Raises `NoServer`."""
    return await _tokens(target, pool, said(text, 1)) / max(len(text), 1)


async def _tokens(target: Target, pool: UpstreamPool, prompt: Prompt) -> int:
    asked: dict[str, Any] = {"messages": prompt.messages} if target.chat else {"prompt": prompt.text}
    status, told = await _fetched(pool, target.request("POST /tokenize", {"model": target.model} | asked))
    if status == 200 and isinstance(count := _object(told).get("count"), int):
        return count
    path = "/v1/chat/completions" if target.chat else "/v1/completions"
    body = {"model": target.model, "max_tokens": 1, "stream": False} | asked
    usage = (await _asked(pool, target.request(f"POST {path}", body))).get("usage")
    return int((usage or {}).get("prompt_tokens") or 0)


async def _asked(pool: UpstreamPool, request: bytes) -> dict[str, Any]:
    status, told = await _fetched(pool, request)
    if status != 200:
        raise NoServer(f"the server answered {said_of(status, told)}" + hint(status))
    return _object(told)


async def _fetched(pool: UpstreamPool, request: bytes) -> tuple[int, bytes]:
    try:
        return await fetch(pool, request, TIMEOUT_S)
    except Failure as failure:
        raise NoServer(f"{failure}; is the server running there?") from None


def hint(status: int) -> str:
    """What to do about a status, where that can be told."""
    return f"; {_WHAT_TO_DO[status]}" if status in _WHAT_TO_DO else ""


def said_of(status: int, body: bytes) -> str:
    """An answer's status and message in a line; without the seconds to wait, so that the same refusals count as one."""
    error = _object(body).get("error")
    message = error.get("message") if isinstance(error, dict) else error
    said = shorten(str(message or "").partition(" Try again in ")[0], 160, placeholder=" …")
    return f"status {status}: {said}" if said else f"status {status}"


def _object(body: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
