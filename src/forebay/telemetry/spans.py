"""An exchange that is over, and its steps → OpenTelemetry's spans, named by its GenAI conventions.

    chat MODEL       server: the whole request, with its tokens; the first one, and what else was decided, as events
      wait           for a place at an engine
      attempt N      client: each replica that it was sent to; the engine's own spans hang beneath
      resume         from a stream's break until it went on, which is for how long the caller saw nothing

Nothing of a prompt or an answer is in a span, and no setting puts it there: the exchange's body is not read here.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from forebay import __version__
from forebay.policy.verdict import Outcome

if TYPE_CHECKING:
    from forebay.gateway.exchange import Exchange, Step

Attributes = dict[str, str | bool | int | float | Sequence[str]]

_OPERATIONS = {
    "chat_completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
_EVENTS = frozenset({"identified", "limits_known", "cache", "unrouted"})  # steps that are moments, not times
_LONGEST = 256  # of what a caller may write as it likes
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


class SpanMaker:
    """Makes the spans of one process. `offset_s` is what makes monotonic seconds a time of day."""

    def __init__(self) -> None:
        ours = {"service.name": "forebay", "service.version": __version__, "service.instance.id": str(uuid4())}
        self.resource = Resource(ours).merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME and the like win
        self.scope = InstrumentationScope("forebay", __version__)

    def of(
        self, exchange: "Exchange", outcome: Outcome, status: int, now: float, offset_s: float
    ) -> list[ReadableSpan]:
        """The spans of a sampled exchange that ended `now`: the whole request's first, then those beneath it."""
        story = _Story(self, exchange, now, offset_s)
        return [story.request(outcome, status), *story.parts()]


class _Story:
    """One exchange's."""

    def __init__(self, maker: SpanMaker, exchange: "Exchange", now: float, offset_s: float) -> None:
        assert exchange.trace is not None
        self._maker = maker
        self._exchange = exchange
        self._now = now
        self._offset_s = offset_s
        self._trace = exchange.trace
        self._trace_id = int(exchange.trace.trace_id, 16)
        self._state = TraceState.from_header([exchange.tracestate.decode()]) if exchange.tracestate else None
        self._own = self._context(self._trace.span_of(0))
        self._attempts = 0

    def request(self, outcome: Outcome, status: int) -> ReadableSpan:
        """The server's span."""
        exchange = self._exchange
        operation = _OPERATIONS.get(exchange.route.name)
        name = f"{operation} {exchange.model}".rstrip() if operation else f"{_method(exchange)} {_route(exchange)}"
        parent = self._context(int(self._trace.parent, 16), remote=True) if self._trace.parent else None
        bad = Status(StatusCode.ERROR) if outcome == "failed" or status >= 500 else _UNSET
        attributes = {**_of_http(exchange, status), **_of_model(exchange, operation), **_of_us(exchange, outcome)}
        events = self._events(exchange.started_at, self._now, steps=True)
        return self._span(
            name, self._own, exchange.started_at, self._now, attributes, bad, SpanKind.SERVER, events, parent
        )

    def parts(self) -> Iterator[ReadableSpan]:
        """The spans beneath it, in the order in which they ended."""
        begun: dict[str, tuple[int, Step]] = {}  # what has not ended yet: the step that began it, and its number
        for number, step in enumerate(self._exchange.steps, 1):
            name = step[1]
            if name == "admitted":
                yield self._wait(*begun.pop("queued"), step[0])
            elif name == "failed":
                yield self._attempt(*begun.pop("attempt"), step[0], step[2], step[3])
            elif name == "resumed":
                yield self._resume(*begun.pop("failed"), step)
            begun[name] = number, step
        if "queued" in begun:
            yield self._wait(*begun["queued"], self._now, self._exchange.error_code)
        if "attempt" in begun:
            yield self._attempt(*begun["attempt"], self._now, self._exchange.error_code)

    def _wait(self, number: int, step: "Step", end: float, error: str = "") -> ReadableSpan:
        attributes: Attributes = {"forebay.queue.place": step[2], "forebay.queue.waits_for": step[3]}
        return self._part("wait", number, step[0], end, attributes, error)

    def _attempt(self, number: int, step: "Step", end: float, error: str = "", detail: str = "") -> ReadableSpan:
        self._attempts += 1
        began, _, replica, why, passed = step
        attributes: Attributes = {
            **_address(replica),
            "http.request.method": _method(self._exchange),
            "url.path": _path(self._exchange),
            "forebay.replica": replica,
            "forebay.attempt.number": self._attempts,
            "forebay.attempt.why": why,
        }
        if passed:
            attributes["forebay.attempt.passed_by"] = [f"{other}: {reason}" for other, reason in passed]
        name = f"attempt {self._attempts}"
        return self._part(name, number, began, end, attributes, error, detail, SpanKind.CLIENT)

    def _resume(self, number: int, failed: "Step", step: "Step") -> ReadableSpan:
        return self._part("resume", number, failed[0], step[0], {"forebay.resume.events": step[2]})

    def _part(
        self,
        name: str,
        number: int,
        start: float,
        end: float,
        attributes: Attributes,
        error: str = "",
        detail: str = "",
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> ReadableSpan:
        status = _UNSET
        if error:
            attributes["error.type"] = error
            status = Status(StatusCode.ERROR, detail[:_LONGEST] or None)
        context = self._context(self._trace.span_of(number))
        events = self._events(start, end) if kind is SpanKind.CLIENT else ()
        return self._span(name, context, start, end, attributes, status, kind, events, self._own)

    def _events(self, start: float, end: float, *, steps: bool = False) -> list[Event]:
        """What happened between: the first token, and those steps that are moments."""
        exchange = self._exchange
        events = []
        if steps:
            for at, name, *details in exchange.steps:
                if name in _EVENTS:
                    told = {"forebay.detail": str(details[0])} if details else None
                    events.append(Event(f"forebay.{name}", told, self._ns(at)))
        if start <= exchange.first_token_at <= end:
            events.append(Event("first token", None, self._ns(exchange.first_token_at)))
        return events

    def _span(
        self,
        name: str,
        context: SpanContext,
        start: float,
        end: float,
        attributes: Attributes,
        status: Status,
        kind: SpanKind,
        events: Sequence[Event],
        parent: SpanContext | None,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._maker.resource,
            attributes,
            events,
            kind=kind,
            status=status,
            start_time=self._ns(start),
            end_time=self._ns(end),
            instrumentation_scope=self._maker.scope,
        )

    def _context(self, span_id: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(self._trace_id, span_id, remote, _SAMPLED, self._state)

    def _ns(self, seconds: float) -> int:
        return int((seconds + self._offset_s) * 1e9)


def _of_http(exchange: "Exchange", status: int) -> Attributes:
    attributes: Attributes = {
        "http.request.method": _method(exchange),
        "http.route": _route(exchange),
        "url.path": _path(exchange),
        "http.response.status_code": status,
        "client.address": exchange.head.address,
    }
    if (host := exchange.headers.get(b"host")) is not None:
        attributes |= _address(f"http://{_clean(host.decode('latin-1'))}")
    if exchange.error_code:
        attributes["error.type"] = exchange.error_code
    return attributes


def _of_model(exchange: "Exchange", operation: str | None) -> Attributes:
    """What the GenAI conventions name."""
    if operation is None:
        return {}
    attributes: Attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "vllm"}
    demand, usage = exchange.demand, exchange.usage
    if demand is not None:
        attributes["gen_ai.request.model"] = _clean(demand.model or exchange.model)
        attributes["gen_ai.request.stream"] = demand.stream
        if demand.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = demand.max_tokens
    if exchange.model:
        attributes["gen_ai.response.model"] = exchange.model
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
        if usage.cached_tokens:
            attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    if exchange.first_token_at:
        attributes["gen_ai.response.time_to_first_chunk"] = exchange.first_token_at - exchange.started_at
    return attributes


def _of_us(exchange: "Exchange", outcome: Outcome) -> Attributes:
    attributes: Attributes = {
        "forebay.request_id": exchange.request_id,
        "forebay.outcome": outcome,
        "forebay.attempts": exchange.attempts,
    }
    if exchange.takeovers:
        attributes["forebay.takeovers"] = exchange.takeovers
    if (who := exchange.principal) is not None:
        attributes["forebay.tenant"] = _clean(who.tenant)
        attributes["forebay.key_id"] = _clean(who.key_id)
    if exchange.cache_state:
        attributes["forebay.cache"] = exchange.cache_state
    return attributes


def _method(exchange: "Exchange") -> str:
    return exchange.route.method.decode()


def _route(exchange: "Exchange") -> str:
    return _path(exchange).replace(exchange.route.response_id or "\0", "{response_id}")


def _path(exchange: "Exchange") -> str:
    return exchange.route.path.partition(b"?")[0].decode("latin-1")


def _address(url: str) -> Attributes:
    """Host and port of a URL; of anything else, a replica's name or a socket's path, all of it as the host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    return {"server.address": host or url, **({"server.port": port} if port is not None else {})}


def _clean(text: str) -> str:
    """What a caller may have made as long as it likes, or of half characters, which no receiver would take."""
    return text[:_LONGEST].encode("utf-8", "replace").decode()
