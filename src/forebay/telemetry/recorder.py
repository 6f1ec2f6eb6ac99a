"""Exchanges → metrics and one access-log line each. Policies report nothing; this watches.

Nothing of a prompt, an answer or a key is ever in reach of a log line here: only the fields of `AccessLine` are.
"""

import logging
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from forebay.policy.usage import Tally
from forebay.policy.verdict import Outcome
from forebay.telemetry import catalogue as metric
from forebay.telemetry.logging import LogWriter
from forebay.telemetry.metrics import Counter, Histogram, Metrics
from forebay.telemetry.recent import Kept, Recent, kind_of
from forebay.telemetry.sampling import AccessSampling
from forebay.telemetry.tenants import TenantFigures
from forebay.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from forebay.gateway.exchange import Exchange
    from forebay.refusals import Refusal

log = logging.getLogger("forebay.gateway")

CLIENT_GONE = 499
UNAVAILABLE = 503


class AccessLine(msgspec.Struct, omit_defaults=True):
    """One line a request. Times are milliseconds; `outcome` is how the exchange ended."""

    time: float
    level: str
    message: str
    request_id: str
    key_id: str
    tenant: str
    endpoint: str
    status: int
    outcome: str
    duration_ms: float
    model: str = ""
    stream: bool = False
    queued_ms: float | None = None
    ttft_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    replica: str = ""
    attempts: int = 1
    takeovers: int = 0
    error: str = ""
    cache: str = ""
    client: str = ""
    engine_request_id: str = ""
    trace_id: str = ""


class _Series:
    """The labelled children for one endpoint and model, bound once."""

    __slots__ = ("_labels", "_metrics", "_statuses", "cached", "completion", "duration", "gap", "prompt", "ttft")

    def __init__(self, metrics: Metrics, labels: tuple[str, str]) -> None:
        self._metrics = metrics
        self._labels = labels
        self._statuses: dict[int, Counter] = {}
        self.duration: Histogram = metrics.histogram(metric.DURATION, labels)
        self.ttft: Histogram = metrics.histogram(metric.TTFT, labels)
        self.gap: Histogram = metrics.histogram(metric.TOKEN_GAP, labels)
        self.prompt: Counter = metrics.counter(metric.PROMPT_TOKENS, labels)
        self.cached: Counter = metrics.counter(metric.CACHED_TOKENS, labels)
        self.completion: Counter = metrics.counter(metric.COMPLETION_TOKENS, labels)

    def with_status(self, status: int) -> Counter:
        counter = self._statuses.get(status)
        if counter is None:
            labels = (*self._labels, str(status))
            counter = self._statuses[status] = self._metrics.counter(metric.REQUESTS, labels)
        return counter


class _Group:
    """The children for one model and group. Both outcomes are there from the first attempt: none rises unseen."""

    __slots__ = ("answered", "failed", "ttft")

    def __init__(self, metrics: Metrics, labels: tuple[str, str]) -> None:
        self.answered: Counter = metrics.counter(metric.GROUP_ATTEMPTS, (*labels, "answered"))
        self.failed: Counter = metrics.counter(metric.GROUP_ATTEMPTS, (*labels, "failed"))
        self.ttft: Histogram = metrics.histogram(metric.GROUP_TTFT, labels)


class Recorder:
    """Told of each exchange's tokens and end. `writer` takes access lines, `tally` usage, `tracing` what is sampled and
    `recent` the stories; None where it is off."""

    def __init__(
        self,
        metrics: Metrics,
        writer: LogWriter | None,
        tally: Tally | None = None,
        tenants: TenantFigures | None = None,
        tracing: Tracing | None = None,
        recent: Recent | None = None,
    ) -> None:
        self.tenants = tenants or TenantFigures(0)
        self._metrics = metrics
        self.writer = writer
        self.recent = recent
        self._tally = tally
        self._tracing = tracing
        self._series: dict[tuple[str, str], _Series] = {}
        self._groups: dict[tuple[str, str], _Group] = {}
        self.sampling: AccessSampling | None = None  # None: each request has its line
        self.answered = 0

    def tokens(self, exchange: "Exchange", now: float) -> None:
        """A block of tokens is about to reach the client."""
        if exchange.gaps is None:
            exchange.gaps = self._of(exchange).gap
            exchange.first_token_at = now
        else:
            gap_s = now - exchange.last_token_at
            exchange.gaps.observe(gap_s)
            if gap_s > exchange.longest_gap_s:
                exchange.longest_gap_s, exchange.longest_gap_at = gap_s, now
        exchange.last_token_at = now

    def attempted(self, exchange: "Exchange", outcome: Outcome, sent_at: float) -> None:
        """An attempt at `exchange.replica` is over; one that the caller cut short, or we, says nothing of it."""
        if exchange.replica is None or outcome not in ("answered", "failed"):
            return
        key = (exchange.model, exchange.replica.group)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(self._metrics, key)
        if outcome == "answered":
            group.answered.value += 1
        else:
            group.failed.value += 1
        if exchange.first_token_at > sent_at:  # else another attempt's, or no stream
            group.ttft.observe(exchange.first_token_at - sent_at)

    def finished(self, exchange: "Exchange", outcome: Outcome, now: float) -> None:
        """An exchange is over."""
        self.answered += 1
        took_s = late_s = now - exchange.started_at
        status = exchange.answer_status if outcome != "cancelled" else CLIENT_GONE
        series = self._of(exchange)
        series.with_status(status).value += 1
        series.duration.observe(took_s)
        if exchange.queued_s:
            self._metrics.histogram(metric.QUEUE_WAIT, (exchange.route.name, exchange.model)).observe(exchange.queued_s)
        stream = exchange.demand is not None and exchange.demand.stream
        if stream and exchange.first_token_at:
            late_s = exchange.first_token_at - exchange.started_at
            series.ttft.observe(late_s)
        self._count_tokens(exchange, series, outcome)
        well = outcome == "answered" and exchange.attempts < 2
        if not well:
            self._went_wrong(exchange)
        if self._tracing is not None and exchange.trace is not None:
            self._tracing.finished(exchange, outcome, status, now)
        writer, recent, kind = self.writer, self.recent, None
        if writer is not None and self.sampling is not None and not self.sampling.keeps(status, took_s, well=well):
            writer = None
        if recent is not None:
            if not well or late_s >= recent.slow_s:
                kind = kind_of(outcome, status, exchange.attempts)
            elif not recent.has_room(now):
                recent = None
        if writer is not None or recent is not None:
            line = _access_line(exchange, outcome, status, stream, now)
            if writer is not None:
                writer.write(line)
            if recent is not None:
                recent.keep(line, exchange, kind)

    def _count_tokens(self, exchange: "Exchange", series: _Series, outcome: Outcome) -> None:
        usage, who, events = exchange.usage, exchange.principal, exchange.events_out
        replayed = False
        if exchange.cache_state:
            labels = (exchange.model, exchange.cache_state)
            self._metrics.counter(metric.CACHE_REQUESTS, labels).value += 1
            replayed = exchange.cache_state == "hit"
        prompt = completion = 0  # where it is replayed: no engine counted anything
        if usage is not None and not replayed:
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
            series.prompt.value += prompt
            if usage.cached_tokens:
                series.cached.value += usage.cached_tokens
        elif not replayed:
            completion = events
        series.completion.value += completion
        if who is not None:
            refused = outcome == "refused" or exchange.answer_status == UNAVAILABLE
            self.tenants.ended(who.tenant, prompt, completion, refused)
            if self._tally is not None:
                failed = outcome == "failed" or outcome == "refused"
                self._tally.add(who, exchange.model, usage, events, failed=failed, replayed=replayed)

    def _went_wrong(self, exchange: "Exchange") -> None:
        """Count what came between: at least one of an error, a second attempt and a caller who left."""
        endpoint = (exchange.route.name,)
        if exchange.error_code:
            self._metrics.counter(metric.ERRORS, (*endpoint, exchange.error_code)).value += 1
        if exchange.attempts > 1:
            self._metrics.counter(metric.RETRIES, endpoint).value += exchange.attempts - 1
        if exchange.takeovers:
            self._metrics.counter(metric.TAKEOVERS, endpoint).value += exchange.takeovers
        if exchange.resumes:
            self._metrics.counter(metric.RESUMES, endpoint).value += exchange.resumes
        if exchange.limit_hit is not None:
            self._metrics.counter(metric.LIMIT_REFUSALS, exchange.limit_hit).value += 1

    def so_far(self, exchange: "Exchange", now: float) -> Kept:
        """The story of an exchange that is under way, up to now."""
        stream = exchange.demand is not None and exchange.demand.stream
        return Kept.of(_access_line(exchange, "running", 0, stream, now), exchange, None)

    def unreadable(self, refusal: "Refusal", address: str, request_id: str) -> None:
        """A connection was refused before any request on it could be told."""
        self._metrics.counter(metric.ERRORS, ("unreadable", refusal.code)).value += 1
        fields = {"request_id": request_id, "client": address, "status": refusal.status, "error": refusal.code}
        log.info("unreadable request", extra=fields)

    def bug(self, exchange: "Exchange", error: Exception) -> None:
        """Forebay itself failed on an exchange."""
        log.error("request failed in Forebay", exc_info=error, extra=about(exchange))

    def goes_on(self, exchange: "Exchange", why: "Refusal", *, resumes: bool) -> None:
        """An attempt came to nothing, and another replica is asked."""
        replica = exchange.replica.name if exchange.replica is not None else ""
        fields = {"replica": replica, "attempt": exchange.attempts, "takeovers": exchange.takeovers, "why": why.code}
        log.warning(
            "a stream is taken over" if resumes else "an attempt failed; another is made",
            extra={**about(exchange), **fields},
        )

    def _of(self, exchange: "Exchange") -> _Series:
        key = (exchange.route.name, exchange.model)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self._metrics, key)
        return series


def about(exchange: "Exchange") -> dict[str, str]:
    """What every log line of a request carries."""
    who, trace = exchange.principal, exchange.traceparent
    fields = {
        "request_id": exchange.request_id,
        "trace_id": trace_id_of(trace) if trace is not None else "",
        "key_id": who.key_id if who is not None else "",
        "tenant": who.tenant if who is not None else "",
        "endpoint": exchange.route.name,
        "model": exchange.model,
    }
    return {name: value for name, value in fields.items() if value}


def trace_id_of(traceparent: bytes) -> str:
    """The trace that an accepted `traceparent` names."""
    return traceparent[3:35].decode("ascii")


def _access_line(
    exchange: "Exchange", outcome: Outcome | Literal["running"], status: int, stream: bool, now: float
) -> AccessLine:
    who, usage, trace = exchange.principal, exchange.usage, exchange.traceparent
    return AccessLine(  # in the fields' order: by their names it takes four times as long
        time.time(),
        "info",
        "request",
        exchange.request_id,
        who.key_id if who is not None else "",
        who.tenant if who is not None else "",
        exchange.route.name,
        status,
        outcome,
        _ms(now - exchange.started_at),
        exchange.model,
        stream,
        _ms(exchange.queued_s) if exchange.queued_s else None,
        _ms(exchange.first_token_at - exchange.started_at) if stream and exchange.first_token_at else None,
        usage.prompt_tokens if usage is not None else None,
        usage.completion_tokens if usage is not None else None,
        (usage.cached_tokens or None) if usage is not None else None,
        exchange.replica.name if exchange.replica is not None else "",
        exchange.attempts,
        exchange.takeovers,
        exchange.error_code,
        exchange.cache_state,
        exchange.head.address,
        exchange.engine_id if exchange.engine_id != exchange.request_id else "",
        trace_id_of(trace) if trace is not None else "",
    )


def _ms(seconds: float) -> float:
    """Milliseconds with three decimals; `round` takes four times as long."""
    return int(seconds * 1e6 + 0.5) / 1e3
