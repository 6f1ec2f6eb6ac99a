"""Engine → client. Sends one request to a replica and passes its answer on.

An answer that is no stream is held until it is whole, then checked and sent in one piece; until then a failure can
still become a proper status. A stream passes through in the blocks it comes in, cut at event boundaries; the client
sees nothing, not even the 200, before the first event. Each block is searched for the few things that matter (usage,
errors inside a 200, the proper end) and taken apart only where one is found.

What ends a stream is always said: if the engine's ends without its closing line, breaks, stalls or aborts, an error
event is sent in the caller's dialect. A client that reads slowly pauses the engine's connection; one that goes away
closes it, which makes the engine stop generating.
"""

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from forebay.failures import Failure
from forebay.gateway.errors import error_events, refusal_from_engine
from forebay.gateway.exchange import Exchange
from forebay.gateway.routes import Dialect
from forebay.policy.retry import RETRIED_STATUSES, is_retryable, is_stale_connection
from forebay.policy.verdict import Lease, Outcome
from forebay.refusals import BadGateway, EngineUnavailable, Overloaded, Refusal, UpstreamTimeout
from forebay.replicas.replica import Replica
from forebay.upstream.connection import Connection
from forebay.wire.sse import (
    EventSplitter,
    EventTooLarge,
    data_of,
    events_in,
    has_line_starting,
    is_only_comments,
)
from forebay.wire.usage import Answer, is_aborted, read_answer, read_event, usage_of

if TYPE_CHECKING:
    from forebay.gateway.pipeline import Pipeline

_ERROR_STARTS = (b'data: {"error"', b"event: error", b'data: {"object":"error"')
_ABORTED = BadGateway("The engine gave the request up.", code="engine_aborted")


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How long and how much a relay waits for and holds: seconds, bytes, attempts."""

    request_timeout_s: float
    first_byte_timeout_s: float
    stall_timeout_s: float
    max_answer_bytes: int
    max_event_bytes: int
    max_attempts: int


class Relay:
    """One exchange's way to an engine and back; the reader of an upstream connection."""

    __slots__ = (
        "_avoid",
        "_body",
        "_connection",
        "_ended_well",
        "_exchange",
        "_held",
        "_held_bytes",
        "_json",
        "_only",
        "_paused",
        "_pipeline",
        "_progress_at",
        "_refreshed",
        "_slot",
        "_splitter",
        "_status",
        "_streaming",
    )

    def __init__(self, exchange: Exchange, pipeline: "Pipeline", body: bytes, only: Replica | None) -> None:
        self._exchange = exchange
        self._pipeline = pipeline
        self._body = body
        self._only = only
        self._avoid: Replica | None = None
        self._connection: Connection | None = None
        self._slot: Lease | None = None
        self._refreshed = False
        self._paused = False

    def _clear_answer(self, now: float) -> None:
        self._status = 0
        self._json = False
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._splitter: EventSplitter | None = None
        self._streaming = False
        self._ended_well = False
        self._progress_at = now

    # Towards the engine
    def send(self, now: float, *, fresh: bool = False) -> None:
        """Choose a replica and send the request to it. Raises `Refusal` where there is none to ask."""
        exchange = self._exchange
        replica = self._only
        if replica is None:
            groups = self._pipeline.replicas.groups(exchange.model)
            replica = self._pipeline.routing.choose(groups, now, exchange.affinity, self._avoid)
        elif not replica.ready:
            raise EngineUnavailable("The engine that holds this response is not ready.", retry_after_s=5)
        if replica.upstream.full:
            raise Overloaded("The engine has as many connections as it may. Try again shortly.", retry_after_s=1)
        exchange.replica = replica
        if not fresh:
            exchange.attempts += 1
        self._clear_answer(now)
        self._slot = replica.acquire(now, exchange.work_tokens)
        trace = b"traceparent: %s\r\n" % exchange.traceparent if exchange.traceparent else b""
        request = b"%sx-request-id: %s\r\n%scontent-length: %d\r\n\r\n%s" % (
            replica.request_head(exchange.route.method, exchange.route.path),
            exchange.engine_id.encode(),
            trace,
            len(self._body),
            self._body,
        )
        self._connection = replica.upstream.send(request, self, fresh=fresh)

    def _try_again(self, now: float) -> bool:
        """Ask another replica, if policy allows it and there is one; nothing has reached the client."""
        exchange, pipeline = self._exchange, self._pipeline
        if exchange.attempts >= pipeline.relay_limits.max_attempts or self._only is not None:
            return False
        if now - exchange.started_at >= pipeline.relay_limits.request_timeout_s or not pipeline.retry_budget.spend(now):
            return False
        self._avoid = exchange.replica
        try:
            self.send(now)
        except Refusal:
            return False
        return True

    def _abandon(self, outcome: Outcome, now: float) -> None:
        """Stop the engine's work on this attempt."""
        if self._connection is not None:
            self._connection.cancel()
        self._let_go(outcome, now)

    def _let_go(self, outcome: Outcome, now: float) -> None:
        """The attempt is over: `answered`, `failed` on the engine's side, or `cancelled`, which says nothing of it."""
        self._connection = None
        if self._slot is not None:
            self._slot.release(outcome, now)
            self._slot = None

    # The engine's answer: upstream.connection.Reader
    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        self._status = status
        self._progress_at = now
        content_type = headers.get(b"content-type", b"")
        self._json = content_type.startswith(b"application/json")
        if status == 200 and content_type.startswith(b"text/event-stream"):
            self._splitter = EventSplitter(self._pipeline.relay_limits.max_event_bytes)

    def block(self, data: bytes, now: float) -> None:
        self._progress_at = now
        if self._exchange.replica is not None:
            self._exchange.replica.progress.moved(now)
        if self._splitter is None:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > self._pipeline.relay_limits.max_answer_bytes:
                self.give_up(BadGateway("The engine's answer is too large."), now)
            return
        try:
            events = self._splitter.push(data)
        except EventTooLarge:
            self.give_up(BadGateway("An event in the engine's stream is too large."), now)
            return
        if events:
            self._pass_on(events, now)

    def end(self, now: float) -> None:
        if self._splitter is None:
            self._answer_whole(b"".join(self._held), now)
        elif self._ended_well:
            self._let_go("answered", now)
            self._exchange.client.end_stream(b"")
            self._pipeline.finish(self._exchange, "answered", now)
        else:
            self._let_go("failed", now)
            self._end_badly(BadGateway("The engine's stream ended before its end.", retry_after_s=1), now)

    def failed(self, failure: Failure) -> None:
        now = monotonic()
        if is_stale_connection(failure) and not self._refreshed:
            self._let_go("cancelled", now)
            self._refreshed = True
            try:
                self.send(now, fresh=True)
            except Refusal as refusal:
                self._end_badly(refusal, now)
            return
        self._let_go("failed", now)
        if self._streaming or not is_retryable(failure) or not self._try_again(now):
            self._end_badly(_refusal_for(failure, generated=self._streaming), now)

    # Streams
    def _pass_on(self, events: bytes, now: float) -> None:
        """Send a block of whole events on; look inside where it may say something that concerns us."""
        exchange = self._exchange
        if not self._streaming and is_only_comments(events):
            return
        if not events.isascii():
            events = _valid_utf8(events)
        if b'"usage":' in events or b'"abort"' in events:
            events = self._read_events(events)
        if b"error" in events and any(has_line_starting(events, start) for start in _ERROR_STARTS):
            self._error_inside(events, now)
            return
        if not self._ended_well:
            for end in exchange.route.stream_ends:
                if end in events and has_line_starting(events, end):
                    self._ended_well = True
        if exchange.route.stores and not self._streaming:
            self._own_response(events)
        if not events:
            return
        self._pipeline.recorder.tokens(exchange, now)
        exchange.events_out += events.count(b"data: {")
        if self._streaming:
            exchange.client.write_stream(events)
        else:
            self._streaming = True
            exchange.client.start_stream(exchange, events)

    def _read_events(self, block: bytes) -> bytes:
        """Take the usage out of a block; drop the event that only we asked for; turn an abort into an error."""
        kept = []
        for event in events_in(block):
            answer = read_event(event)
            if answer is not None:
                if is_aborted(answer):
                    kept.append(error_events(_ABORTED, Dialect.OPENAI, 0))
                    break
                if self._take_usage(answer) and self._is_ours_alone(answer):
                    continue
            kept.append(event)
        return b"".join(kept)

    def _take_usage(self, answer: Answer) -> bool:
        usage = usage_of(answer)
        if usage is None:
            return False
        so_far = self._exchange.usage
        if so_far is not None:  # Anthropic's streams tell the prompt's first and the answer's last
            usage.prompt_tokens = usage.prompt_tokens or so_far.prompt_tokens
            usage.completion_tokens = usage.completion_tokens or so_far.completion_tokens
            usage.cached_tokens = usage.cached_tokens or so_far.cached_tokens
        self._exchange.usage = usage
        return True

    def _is_ours_alone(self, answer: Answer) -> bool:
        """Whether an event is the usage that the gateway asked for and the caller did not."""
        demand = self._exchange.demand
        asked = demand is None or demand.wants_usage or not self._exchange.route.usage_on_request
        return answer.choices == [] and not asked

    def _error_inside(self, events: bytes, now: float) -> None:
        """An error came with status 200. Pass on what was before it, then say it in our form."""
        before = []
        told = b""
        for event in events_in(events):
            if any(event.startswith(start) for start in _ERROR_STARTS):
                told = data_of(event)
                break
            before.append(event)
        refusal = _ABORTED if b"engine_aborted" in told else refusal_from_engine(500, told)
        if before and self._streaming:
            self._exchange.client.write_stream(b"".join(before))
        if not self._streaming and refusal.status in RETRIED_STATUSES:
            self._abandon("failed", now)
            if self._try_again(now):
                return
        self.give_up(refusal, now)

    def _own_response(self, events: bytes) -> None:
        answer = read_event(next(events_in(events)))
        if answer is not None and answer.response is not None:
            self._record_owner(answer.response.id)

    # Whole answers
    def _answer_whole(self, body: bytes, now: float) -> None:
        exchange = self._exchange
        if self._status != 200:
            refusal = refusal_from_engine(self._status, body)
            self._let_go("failed" if refusal.status >= 500 else "answered", now)
            if refusal.status not in RETRIED_STATUSES or not self._try_again(now):
                self._end_badly(refusal, now)
            return
        answer = read_answer(body) if self._json else None
        if answer is None or is_aborted(answer):
            self._let_go("failed", now)
            no_json = BadGateway("The engine's answer is not the JSON it should be.", retry_after_s=1)
            self._end_badly(_ABORTED if answer else no_json, now)
            return
        self._let_go("answered", now)
        exchange.usage = usage_of(answer)
        if exchange.route.stores:
            self._record_owner(answer.id)
        self._pipeline.recorder.tokens(exchange, now)
        exchange.client.respond(exchange, 200, b"application/json", body)
        self._pipeline.finish(exchange, "answered", now)

    def _record_owner(self, response_id: str | None) -> None:
        exchange = self._exchange
        if response_id and exchange.principal is not None and exchange.replica is not None:
            self._pipeline.ownership.record(response_id, exchange.principal.tenant, exchange.replica.name)

    # Endings
    def _end_badly(self, refusal: Refusal, now: float) -> None:
        """Tell the client that there is no answer, or no more of it, in whatever form is still possible."""
        exchange = self._exchange
        if not self._streaming:
            self._pipeline.refuse(exchange, refusal, now)
            return
        exchange.error_code = refusal.code
        exchange.client.end_stream(error_events(refusal, exchange.route.dialect, exchange.events_out))
        self._pipeline.finish(exchange, "failed", now)

    def give_up(self, refusal: Refusal, now: float, outcome: Outcome = "failed") -> None:
        """Stop the engine's work and end the exchange with a refusal; `outcome` is what it says of the engine."""
        self._abandon(outcome, now)
        self._end_badly(refusal, now)

    def check(self, now: float) -> None:
        """Give up where nothing has come for too long; a client that does not read is no fault of the engine's."""
        if self._paused or self._connection is None:
            return
        limits = self._pipeline.relay_limits
        limit = limits.stall_timeout_s if self._streaming else limits.first_byte_timeout_s
        if now - self._progress_at > limit:
            self._connection.fail("timeout", f"nothing came for {limit:g} s")

    @property
    def waits_since(self) -> float | None:
        """Since when the engine owes this exchange something; None where it does not, or the client is the slow one."""
        if self._paused or self._connection is None or not self._exchange.route.generates:
            return None
        return self._progress_at

    def stalled(self) -> None:
        """The engine has stalled: treat it as a time-out, at once."""
        if self._connection is not None:
            self._connection.fail("timeout", "the engine makes no progress")

    # The client's side
    def client_gone(self, now: float) -> None:
        """The client went away: nobody wants the rest."""
        self._abandon("cancelled", now)
        self._exchange.error_code = "client_closed_request"
        self._pipeline.finish(self._exchange, "cancelled", now)

    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        self._progress_at = monotonic()
        if self._connection is not None:
            self._connection.resume()


def _refusal_for(failure: Failure, *, generated: bool) -> Refusal:
    """What a caller is told of a failed attempt. Where tokens were generated a blind retry would repeat work."""
    match failure.kind:
        case "connect":
            return EngineUnavailable("No engine could be reached. Try again shortly.", retry_after_s=2)
        case "closed":
            return EngineUnavailable("The engine stopped while it worked on this request.", retry_after_s=5)
        case "invalid":
            return BadGateway("The engine's answer is not valid HTTP.", retry_after_s=1)
        case "timeout":
            return UpstreamTimeout("The engine took too long.", should_retry=False if generated else None)


def _valid_utf8(events: bytes) -> bytes:
    """The events, with what is not UTF-8 replaced: it would crash the official clients' decoders."""
    try:
        events.decode("utf-8")
    except UnicodeDecodeError:
        return events.decode("utf-8", "replace").encode()
    return events
