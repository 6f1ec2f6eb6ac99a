"""One request of a load and its clock, and all of those that are under way.

The clock is `time.monotonic`: it starts just before the request is written, a new connection's set-up included, and
every block of the answer carries the time at which it was read. A token has arrived when an event with its text has: a
chat's opening event, which names the role only, is none. The last event with a choice, which may bear a token without
text (the end of the sequence), ends the request.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from forebay.failures import Failure
from forebay.loadgen.figures import Sample
from forebay.loadgen.target import said_of
from forebay.upstream.connection import Connection
from forebay.upstream.pool import UpstreamPool
from forebay.wire.sse import EventSplitter, EventTooLarge, data_of, events_in

MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_MESSAGE_BYTES = 16 * 1024
_DONE = b"data: [DONE]"


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Counts | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


class Answer:
    """Reads one streamed answer into its sample; `done` is called once, unless it is cancelled."""

    __slots__ = (
        "_body",
        "_done",
        "_events",
        "_finish",
        "_status",
        "_whole",
        "connection",
        "request",
        "sample",
        "tries",
    )

    def __init__(self, request: bytes, done: Callable[["Answer", Failure | None], None]) -> None:
        self.request = request
        self.sample = Sample(time.monotonic())
        self.connection: Connection | None = None
        self.tries = 0
        self._done = done
        self._events = EventSplitter(MAX_EVENT_BYTES)
        self._status = 0
        self._body = b""
        self._finish: str | None = None
        self._whole = False

    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        self._status = status
        if status == 200 and not headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self.sample.failure = "the answer is no stream of events"

    def block(self, data: bytes, now: float) -> None:
        if self._status != 200 or self.sample.failure is not None:
            self._body += data[: MAX_MESSAGE_BYTES - len(self._body)]
            return
        try:
            whole = self._events.push(data)
        except EventTooLarge as wrong:
            self.sample.failure = str(wrong)
            return
        for event in events_in(whole):
            self._take(event, now)

    def end(self, now: float) -> None:
        sample = self.sample
        sample.ended = now
        if self._status != 200:
            sample.failure = said_of(self._status, self._body)
        elif sample.failure is None:
            sample.failure = self._wrong()
        if not sample.first:  # an answer of tokens without text
            sample.first = sample.last
        sample.output_tokens = sample.output_tokens or sample.events
        self._done(self, None)

    def failed(self, failure: Failure) -> None:
        self.sample.ended = time.monotonic()
        self.sample.failure = f"{failure.kind}: {failure}"
        self._done(self, failure)

    def _wrong(self) -> str | None:
        if not self._whole:
            return "the stream ended before [DONE]"
        if self._finish in ("abort", "error"):
            return f"the engine gave up (finish_reason {self._finish})"
        return None if self.sample.last else "the stream brought no token"

    def _take(self, event: bytes, now: float) -> None:
        if event.startswith(_DONE):
            self._whole = True
            return
        try:
            told = _decoder.decode(event[6:] if event.startswith(b"data: ") else data_of(event) or b"{}")
        except (msgspec.DecodeError, RecursionError):
            self.sample.failure = "an event of the stream is not what a completion says"
            return
        if told.error is not None:
            self.sample.failure = said_of(200, msgspec.json.encode({"error": told.error}))
        if told.usage is not None:
            self.sample.prompt_tokens = told.usage.prompt_tokens or 0
            self.sample.output_tokens = told.usage.completion_tokens or 0
        for choice in told.choices[:1]:
            self._token(choice, now)

    def _token(self, choice: _Choice, now: float) -> None:
        sample, delta = self.sample, choice.delta
        has_text = choice.text or (
            delta is not None
            and (delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls is not None)
        )
        if has_text:
            sample.events += 1
            if sample.events == 1:
                sample.first = now
            else:
                sample.gaps.append(now - sample.last)
        if has_text or choice.finish_reason is not None:
            sample.last = now
            self._finish = choice.finish_reason


class Asker:
    """The requests under way. A request whose kept connection the server had just closed is sent once more."""

    def __init__(self, pool: UpstreamPool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self.under_way: dict[Answer, Callable[[Sample], None]] = {}

    def ask(self, request: bytes, done: Callable[[Sample], None]) -> Sample:
        """Send one; `done` is called when it has ended, well or not."""
        answer = Answer(request, self._ended)
        self.under_way[answer] = done
        answer.connection = self._pool.send(request, answer)
        return answer.sample

    def expire(self, now: float) -> None:
        """End those that take too long."""
        for answer in [one for one in self.under_way if now - one.sample.sent > self._timeout_s]:
            if answer.connection is not None:
                answer.connection.fail("timeout", f"no whole answer within {self._timeout_s:g} s")

    def cut(self) -> int:
        """Give up all that are under way; how many there were."""
        answers, self.under_way = list(self.under_way), {}
        for answer in answers:
            if answer.connection is not None:
                answer.connection.cancel()
        return len(answers)

    def _ended(self, answer: Answer, failure: Failure | None) -> None:
        if failure is not None and failure.stale and answer.tries == 0:
            answer.tries = 1
            answer.sample.failure = None
            answer.connection = self._pool.send(answer.request, answer, fresh=True)
        elif (done := self.under_way.pop(answer, None)) is not None:
            done(answer.sample)
