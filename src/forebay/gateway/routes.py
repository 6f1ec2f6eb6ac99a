"""The one table of what is relayed to engines. What is not in it never reaches an engine.

Paths are matched as the bytes on the wire, undecoded: `%2e`, `//` and a trailing slash are other paths, and unknown
ones. A method that is not listed for a known path is answered 405 by the FastAPI application, as every path that is
not relayed is answered there (`gateway/app.py`).
"""

from dataclasses import dataclass, replace
from enum import Enum

from forebay.api.health import PROBE_PATHS

_ID_CHARACTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
_QUERY_CHARACTERS = _ID_CHARACTERS + b"=&.[]%"
_MAX_ID = 128


class Dialect(Enum):
    """Whose error form and stream form an endpoint speaks."""

    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Route:
    """A relayed endpoint. `name` labels it in metrics; `stream_ends` are the lines that close a stream properly,
    none where there is never a stream;
    `generates` tells that the engine's core works on it, not its front alone; `resumable` that another engine can go on
    with a stream of it, `chat` in which form; `cacheable` that the same question may be answered from memory, `samples`
    that its answers are drawn unless the request says otherwise; `sampling` are the fields that it takes of a preset,
    None for all; `prompt` is the field of its prompt, `bounds` are those that bound its answer's length, the first that
    is there."""

    name: str
    method: bytes
    path: bytes
    dialect: Dialect = Dialect.OPENAI
    stream_ends: tuple[bytes, ...] = (b"data: [DONE]",)
    usage_on_request: bool = False
    model_required: bool = True
    stores: bool = False
    generates: bool = True
    resumable: bool = False
    chat: bool = False
    cacheable: bool = False
    samples: bool = True
    sampling: frozenset[str] | None = frozenset()
    prompt: str = "input"
    bounds: tuple[str, ...] = ()
    response_id: str | None = None


_FEW = frozenset({"temperature", "top_p", "top_k"})
_RESPONSES_END = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")
_RELAYED = (
    Route(
        "chat_completions",
        b"POST",
        b"/v1/chat/completions",
        usage_on_request=True,
        resumable=True,
        chat=True,
        cacheable=True,
        sampling=None,
        prompt="messages",
        bounds=("max_completion_tokens", "max_tokens"),
    ),
    Route(
        "completions",
        b"POST",
        b"/v1/completions",
        usage_on_request=True,
        resumable=True,
        cacheable=True,
        sampling=None,
        prompt="prompt",
        bounds=("max_tokens",),
    ),
    Route("embeddings", b"POST", b"/v1/embeddings", stream_ends=(), cacheable=True, samples=False),
    Route(
        "responses",
        b"POST",
        b"/v1/responses",
        Dialect.RESPONSES,
        _RESPONSES_END,
        stores=True,
        sampling=_FEW,
        bounds=("max_output_tokens",),
    ),
    Route(
        "messages",
        b"POST",
        b"/v1/messages",
        Dialect.ANTHROPIC,
        (b"event: message_stop",),
        cacheable=True,
        sampling=_FEW,
        prompt="messages",
        bounds=("max_tokens",),
    ),
    Route("count_tokens", b"POST", b"/v1/messages/count_tokens", Dialect.ANTHROPIC, (), generates=False),
    Route("tokenize", b"POST", b"/tokenize", stream_ends=(), model_required=False, generates=False),
    Route("detokenize", b"POST", b"/detokenize", stream_ends=(), model_required=False, generates=False),
)
_STORED_RESPONSE = b"/v1/responses/"
_STORED = {
    (b"GET", b""): Route(
        "responses_get", b"GET", b"/v1/responses/{response_id}", Dialect.RESPONSES, _RESPONSES_END, generates=False
    ),
    (b"POST", b"cancel"): Route(
        "responses_cancel", b"POST", b"/v1/responses/{response_id}/cancel", Dialect.RESPONSES, (), generates=False
    ),
}
ROUTES = (*_RELAYED, *_STORED.values())
_EXACT = {(route.method, route.path): route for route in _RELAYED}
_PROBES = frozenset(path.encode() for path in PROBE_PATHS)


def dialect_of(target: bytes) -> Dialect:
    """Whose error form a path speaks, whether or not it is relayed or even exists."""
    return Dialect.ANTHROPIC if target.startswith(b"/v1/messages") else Dialect.OPENAI


def takes_file(method: bytes, target: bytes) -> bool:
    """Whether a request brings a file, which may be larger than other bodies."""
    return target == b"/v1/files" and method == b"POST"


def is_for_operators(target: bytes) -> bool:
    """Whether a request target is of those who watch or administer, for whom there is room where callers have all."""
    path = target.partition(b"?")[0]
    return path in _PROBES or path.startswith(b"/admin/")


def find_route(method: bytes, target: bytes) -> Route | None:
    """The relayed endpoint for a request target as received, or None."""
    route = _EXACT.get((method, target))
    if route is not None:
        return route
    path, _, query = target.partition(b"?")
    if path.startswith(_STORED_RESPONSE):
        return _stored_response(method, path, query)
    return _EXACT.get((method, path)) if b"#" not in query else None


def methods_of(path: bytes) -> list[str]:
    """The methods of a relayed path; none of one that is not relayed."""
    return [method for method in ("GET", "POST") if find_route(method.encode(), path) is not None]


def _stored_response(method: bytes, path: bytes, query: bytes) -> Route | None:
    """The endpoint for one stored response; its path is that of the response."""
    response_id, _, action = path.removeprefix(_STORED_RESPONSE).partition(b"/")
    if not response_id or len(response_id) > _MAX_ID or response_id.translate(None, _ID_CHARACTERS):
        return None
    route = _STORED.get((method, action))
    if route is None or len(query) > 256 or query.translate(None, _QUERY_CHARACTERS):
        return None
    return replace(route, path=path + (b"?" + query if query else b""), response_id=response_id.decode("ascii"))
