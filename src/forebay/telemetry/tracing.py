"""Is this request traced, under which ids, and what becomes of its spans.

While a request runs there are no span objects: it is decided at once whether it is sampled, and its ids are made then,
for the engine's own spans hang beneath ours. When it is over, the exchange and its steps are turned into spans
(`spans.py`), which a thread sends (`otlp.py`). OpenTelemetry is loaded only where traces are wanted.

The caller's word is taken: a sampled trace is gone on with, one that is not is passed on as it came. Without one, a
share of the requests is sampled; the engine is told of the others that they are not, or it would trace them itself.
"""

import logging
from random import getrandbits, random
from time import monotonic, time
from typing import TYPE_CHECKING

import msgspec

from forebay.policy.verdict import Outcome
from forebay.wire.headers import accepted_traceparent, accepted_tracestate

if TYPE_CHECKING:
    from forebay.config.settings import Settings
    from forebay.gateway.exchange import Exchange
    from forebay.telemetry.otlp import OtlpSink
    from forebay.telemetry.spans import SpanMaker

log = logging.getLogger("forebay.tracing")

_SPAN_IDS = 2**64
_SAMPLED = 1  # the flag of a traceparent


class Trace(msgspec.Struct):
    """The ids of a request that is sampled. `parent` is its caller's span, empty where the trace begins here."""

    trace_id: str
    span_id: int
    parent: str = ""

    def span_of(self, step: int) -> int:
        """The id of the span that begins with a step, counted from 1; 0 is the whole request."""
        return (self.span_id + step) % _SPAN_IDS

    def traceparent(self, step: int) -> bytes:
        """What an engine is told, for its spans to be beneath that one."""
        return f"00-{self.trace_id}-{self.span_of(step):016x}-01".encode()


class Tracing:
    """Samples requests, and hands the spans of those that are over to `sink`."""

    def __init__(self, ratio: float, spans: "SpanMaker", sink: "OtlpSink") -> None:
        self.ratio = ratio
        self.sink = sink
        self._spans = spans

    def begin(self, exchange: "Exchange") -> None:
        """Decide whether an exchange that has just got its ids is sampled."""
        theirs = pass_on(exchange) if b"traceparent" in exchange.headers else None
        if theirs is None:
            if random() >= self.ratio:  # noqa: S311
                return  # there is no trace to be found by an id: the engine is told one when it is asked
            exchange.trace = Trace(exchange.engine_id, getrandbits(64))  # as random as a trace's id must be
        elif int(theirs[53:], 16) & _SAMPLED:
            exchange.trace = Trace(theirs[3:35].decode(), getrandbits(64), theirs[36:52].decode())
        else:
            return
        exchange.traceparent = exchange.trace.traceparent(0)

    def finished(self, exchange: "Exchange", outcome: Outcome, status: int, now: float) -> None:
        """A sampled exchange is over."""
        try:
            spans = self._spans.of(exchange, outcome, status, now, time() - monotonic())
        except Exception:  # our bug must cost one trace, not the request
            log.exception("a request's spans could not be made", extra={"request_id": exchange.request_id})
        else:
            self.sink.take(spans)


def pass_on(exchange: "Exchange") -> bytes | None:
    """Have the engine told what the caller says of its trace, and return that; None where it cannot be understood."""
    theirs = exchange.traceparent = accepted_traceparent(exchange.headers.get(b"traceparent"))
    if theirs is not None:
        exchange.tracestate = accepted_tracestate(exchange.headers.get(b"tracestate"))
    return theirs


def not_sampled(engine_id: str) -> bytes:
    """What an engine is told of a request that is in no trace, for it to begin none."""
    return f"00-{engine_id}-{engine_id[:16]}-00".encode()


def open_tracing(settings: "Settings") -> Tracing | None:
    """What traces by these settings; None where nothing is traced. Begins a thread; `close` the sink at the end."""
    if settings.traces_url is None:
        return None
    from forebay.telemetry.otlp import OtlpSink
    from forebay.telemetry.spans import SpanMaker

    sink = OtlpSink(settings.traces_url, settings.otlp_protocol)
    return Tracing(settings.trace_sample_ratio, SpanMaker(), sink)
