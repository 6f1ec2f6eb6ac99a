"""Engine → client. Passes an engine's answer on.

An answer that is no stream is held until it is whole, then checked and sent in one piece; until then a failure can
still become a proper status. A stream passes through in the blocks it comes in, cut at event boundaries; the client
sees nothing, not even the 200, before the first event. Each block is searched for the few things that matter (usage,
errors inside a 200, the proper end) and taken apart only where one is found.

A stream that breaks, stalls or is aborted goes on from another replica where that is possible (`sending.py`). What
ends a stream is always said: else an error event is sent in the caller's dialect. A client that reads slowly pauses
the engine's connection; one that goes away closes it, which makes the engine stop generating.
"""

from time import monotonic

from forebay.gateway.errors import error_events, no_room, refusal_from_engine, refusal_from_stream
from forebay.gateway.routes import Dialect
from forebay.gateway.sending import Sending
from forebay.policy.retry import RETRIED_FROM_STATUS
from forebay.policy.verdict import Outcome
from forebay.refusals import BadGateway, EngineUnavailable, Refusal
from forebay.room import SMALL_BYTES, Held, joined
from forebay.wire import timings
from forebay.wire.sse import (
    EventSplitter,
    EventTooLarge,
    data_of,
    events_in,
    has_line_starting,
    is_only_comments,
)
from forebay.wire.transcript import Transcript
from forebay.wire.usage import Answer, is_aborted, read_answer, read_event, tokens_in, usage_of

_ERROR_STARTS = (b'data: {"error"', b"event: error", b'data: {"object":"error"')
_ABORTED = BadGateway("The engine gave the request up.", code="engine_aborted", retry_after_s=1)
_CUT = BadGateway("The engine's stream ended before its end.", retry_after_s=1)


class Relay(Sending):
    """One exchange's way to an engine and back; the reader of an upstream connection."""

    __slots__ = ("_held", "_json", "_splitter")

    def _clear_answer(self) -> None:
        self._json = False
        self._held: Held = b""
        if self._counted:
            self._forget_answer()
        self._splitter: EventSplitter | None = None
        self._ended_well = False

    # The engine's answer: upstream.connection.Reader
    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        self._status = status
        self._progress_at = now
        content_type = headers.get(b"content-type", b"")
        self._json = content_type.startswith(b"application/json")
        if not self._json:
            content_type = content_type.lower()  # a type may be written in any case
            self._json = content_type.startswith(b"application/json")
        if not self._json and status == 200 and content_type.startswith(b"text/event-stream"):
            if self._wants_stream() is False and self._connection is not None:
                self._connection.fail("invalid", "answered with a stream that nobody asked for")
                return
            self._splitter = EventSplitter(self._pipeline.relay_limits.max_event_bytes)
            if self._continuation is not None:
                self._exchange.resumes += 1
            elif self._exchange.resumable:
                self._transcript = Transcript(chat=self._exchange.route.chat)
        if self._paused and self._connection is not None:
            self._connection.pause()

    def _wants_stream(self) -> bool | None:
        """Whether the answer has to be a stream; None where that cannot be told."""
        demand = self._exchange.demand
        return None if demand is None else demand.stream and self._exchange.route.stream_ends != ()

    def block(self, data: bytes, now: float) -> None:
        self._progress_at = now
        if self._splitter is None:
            self._held = joined(self._held, data) if self._held else data
            if (size := len(self._held)) > SMALL_BYTES:
                self._hold(size, now)
            return
        try:
            events = self._splitter.push(data)
        except EventTooLarge:
            self.give_up(BadGateway("An event in the engine's stream is too large."), now)
            return
        if events and not self._ended_well:
            self._pass_on(events, now)

    def end(self, now: float) -> None:
        if self._splitter is None:
            self._answer_whole(self._held, now)
        elif self._ended_well:
            self._let_go("answered", now)
            if self._exchange.recording is not None and self._continuation is None:
                self._exchange.recording.complete(self._exchange, now)
            self._exchange.client.end_stream(b"")
            self._pipeline.finish(self._exchange, "answered", now)
        else:
            self._let_go("failed", now)
            self._answered_badly(_CUT, now, lost=True)

    # Streams
    def _pass_on(self, events: bytes, now: float) -> None:
        """Send a block of whole events on; look inside where it may say something that concerns us."""
        exchange = self._exchange
        if not events.isascii():
            events = _valid_utf8(events)
        if self._continuation is not None:
            events = self._continuation.translate(events)
            if self._resumes and events:
                self._resumes = False
                self._exchange.steps.append((now, "resumed", self._exchange.events_out))
        elif self._transcript is not None:
            events = self._transcript.take(events)
        if not self._streaming and is_only_comments(events):
            return
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
        if exchange.recording is not None:
            exchange.recording.take(events)
        if self._streaming:
            exchange.client.write_stream(events)
        else:
            self._streaming = True
            if exchange.place is not None:
                exchange.place.read(now, now - self._sent_at)
            exchange.client.start_stream(exchange, events)

    def _read_events(self, block: bytes) -> bytes:
        """Take the usage out of a block; drop the event that only we asked for; turn an abort into an error."""
        kept = []
        for told in events_in(block):
            event = told
            if b'"usage":' not in event and b'"abort"' not in event:
                kept.append(event)
                continue
            if timings.MARK in event:
                data = data_of(event)
                event = event.replace(data, self._without_timings(data))
            answer = read_event(event)
            if answer is not None:
                if is_aborted(answer):
                    kept.append(error_events(_ABORTED, Dialect.OPENAI, 0))
                    break
                if self._take_usage(answer) and self._is_ours_alone(answer):
                    continue
            kept.append(event)
        return b"".join(kept)

    def _without_timings(self, answer: Held) -> Held:
        """Keep the engine's timings for the request's story; take them out if that is all they are for."""
        found, rest = timings.taken_from(answer)
        self._exchange.timings = found or self._exchange.timings
        return rest if self._pipeline.relay_limits.hide_timings else answer

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
        self._exchange.recording = None
        before = []
        told = b""
        for event in events_in(events):
            if any(event.startswith(start) for start in _ERROR_STARTS):
                told = data_of(event)
                break
            before.append(event)
        prompt = self._exchange.route.prompt
        refusal = _ABORTED if b"engine_aborted" in told else refusal_from_stream(told, prompt)
        if before and self._streaming:
            self._exchange.client.write_stream(b"".join(before))
        self.abandon("failed" if refusal.status >= RETRIED_FROM_STATUS else "answered", now)
        self._told(refusal, now)

    def _own_response(self, events: bytes) -> None:
        answer = read_event(next(events_in(events)))
        if answer is not None and answer.response is not None:
            self._record_owner(answer.response.id)

    # Whole answers
    def _answer_whole(self, body: Held, now: float) -> None:
        exchange = self._exchange
        if not body.isascii():
            body = _valid_utf8(bytes(body))
        if self._status != 200:
            refusal = refusal_from_engine(self._status, body, exchange.route.prompt)
            self._let_go("failed" if refusal.status >= RETRIED_FROM_STATUS else "answered", now)
            self._told(refusal, now)
            return
        answer = read_answer(body) if self._json and not self._wants_stream() else None
        if answer is not None and answer.error is not None and exchange.route.dialect is not Dialect.RESPONSES:
            refusal = refusal_from_stream(body, exchange.route.prompt)
            self._let_go("failed" if refusal.status >= RETRIED_FROM_STATUS else "answered", now)
            self._told(refusal, now)
            return
        if answer is None or is_aborted(answer) or (exchange.route.usage_on_request and answer.choices is None):
            self._let_go("failed", now)
            no_json = BadGateway("The engine's answer is not the JSON it should be.", retry_after_s=1)
            aborted = answer is not None and is_aborted(answer)
            self._answered_badly(_ABORTED if aborted else no_json, now, lost=aborted)
            return
        self._let_go("answered", now)
        if answer.metrics:
            body = self._without_timings(body)
        exchange.usage = usage_of(answer)
        if exchange.usage is None and exchange.route.stream_ends:
            exchange.events_out = tokens_in(body)
        if exchange.route.stores:
            self._record_owner(answer.id)
        if exchange.recording is not None:
            exchange.recording.take(body)
            exchange.recording.complete(exchange, now)
        exchange.client.respond(exchange, 200, b"application/json", body)
        self._pipeline.finish(exchange, "answered", now)

    def _hold(self, size: int, now: float) -> None:
        """An answer that is not small has grown: check it, and count it."""
        if size > self._pipeline.relay_limits.max_answer_bytes:
            self.give_up(BadGateway("The engine's answer is too large."), now)
        elif self._pipeline.room.take(size - self._counted):
            self._exchange.held_bytes += size - self._counted
            self._counted = size
        else:
            self.give_up(no_room(), now, "cancelled")

    def _forget_answer(self) -> None:
        """The attempt's answer is held no more."""
        self._pipeline.room.give(self._counted)
        self._exchange.held_bytes -= self._counted
        self._counted = 0

    def _told(self, refusal: Refusal, now: float) -> None:
        """The engine itself said that it fails, or that the request is wrong, which no other would answer better."""
        if refusal.status >= RETRIED_FROM_STATUS:
            self._answered_badly(refusal, now, lost=_is_loss(refusal))
        else:
            self._end_badly(refusal, now)

    def _record_owner(self, response_id: str | None) -> None:
        exchange = self._exchange
        if response_id and exchange.principal is not None and exchange.replica is not None:
            self._pipeline.resolving.ownership.record(response_id, exchange.principal.tenant, exchange.replica.name)

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
        self.abandon(outcome, now)
        self._end_badly(refusal, now)

    def _close_with(self, events: bytes, now: float) -> None:
        """End a stream of which only the last events were missing."""
        self._pass_on(events, now)
        self.end(now)

    # The client's side
    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._paused_at = self._paused_at or monotonic()
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        self._progress_at = monotonic()
        self._end_pause(self._progress_at)
        if self._connection is not None:
            self._connection.resume()


def _is_loss(refusal: Refusal) -> bool:
    """Whether the engine's own words mean that it is going away with all it holds, not that this request is wrong."""
    return refusal is _ABORTED or isinstance(refusal, EngineUnavailable)


def _valid_utf8(events: bytes) -> bytes:
    """The events, with what is not UTF-8 replaced: it would crash the official clients' decoders."""
    try:
        events.decode("utf-8")
    except UnicodeDecodeError:
        return events.decode("utf-8", "replace").encode()
    return events
