"""Exchange → engine. Chooses a replica, sends it the request, and sends it again where an attempt came to nothing.

There are four ways on from an attempt that failed:

1. the connection was stale: the same request once more on a fresh one, which is no attempt at all
2. the engine was lost (it died, or stalled, while in good standing), or it failed midway through a stream: another
   replica takes over, or the exchange waits until one is ready, a restarted one too; a stream goes on where it was cut
   (`wire/resume.py`)
3. the engine failed: another replica, if attempts are left and the retry budget allows it
4. none of these: the caller is told

Waiting costs no task: `check`, called a few times a second, tries again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from forebay.failures import Failure
from forebay.gateway.errors import refusal_from_failure
from forebay.gateway.exchange import Exchange
from forebay.policy.auth import ANONYMOUS
from forebay.policy.breaker import BreakerState
from forebay.policy.retry import is_loss, is_stale_connection
from forebay.policy.routing import Group, PassedBy, passed_by
from forebay.policy.verdict import Outcome
from forebay.refusals import EngineUnavailable, Overloaded, Refusal
from forebay.replicas.replica import AttemptLease, Replica
from forebay.telemetry.tracing import not_sampled
from forebay.upstream.connection import Connection
from forebay.wire import resume
from forebay.wire.resume import Continuation
from forebay.wire.transcript import Transcript

if TYPE_CHECKING:
    from forebay.gateway.pipeline import Pipeline

VAIN_PAUSE_S = 0.5  # between takeovers that come to nothing at once, longer each time: else all are used up in a moment

MOST_DETAIL = 200  # characters of what a failure says

_CLOSED = BreakerState.CLOSED


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How long and how much a relay waits for and holds: seconds, bytes, attempts."""

    request_timeout_s: float
    first_byte_timeout_s: float
    stall_timeout_s: float
    max_answer_bytes: int
    max_event_bytes: int
    max_attempts: int
    max_takeovers: int
    takeover_wait_s: float
    hide_timings: bool = False  # keep those that an engine tells from the caller


class Sending(ABC):
    """One exchange's way to an engine, and the reader of its connection; `Relay` is this and the way back."""

    __slots__ = (
        "_avoid",
        "_body",
        "_connection",
        "_continuation",
        "_counted",
        "_ended_well",
        "_exchange",
        "_not_before",
        "_only",
        "_paused",
        "_paused_at",
        "_pipeline",
        "_progress_at",
        "_refreshed",
        "_resumes",
        "_retries",
        "_sent_at",
        "_several",
        "_slot",
        "_status",
        "_streaming",
        "_transcript",
        "_trusted",
        "_wait_until",
        "_why",
    )

    def __init__(self, exchange: Exchange, pipeline: "Pipeline", body: bytes, only: Replica | None) -> None:
        self._exchange = exchange
        self._pipeline = pipeline
        self._body = body
        self._only = only
        self._avoid: Replica | None = None
        self._connection: Connection | None = None
        self._slot: AttemptLease | None = None
        self._ended_well = False  # whether the client has had a stream's closing line
        self._status = 0  # of this attempt's answer, 0 before its head
        self._progress_at = 0.0
        self._sent_at = 0.0
        self._several = False  # whether the model has several groups of replicas, of which figures are kept
        self._refreshed = False  # whether this attempt is the second one, after a stale connection
        self._trusted = False  # whether the replica was in good standing when it was asked
        self._paused = False
        self._paused_at = 0.0  # 0 also while there is nothing to pause
        self._streaming = False  # whether the client has had the first events
        self._retries = 0
        self._wait_until = 0.0  # until when a lost engine's place may be taken; 0 where none was lost
        self._not_before = 0.0
        self._why: Refusal | None = None
        self._transcript: Transcript | None = None
        self._continuation: Continuation | None = None
        self._counted = 0  # bytes of a whole answer, so far, in `Room`
        self._resumes = False  # whether the client has still to see the first of what another replica goes on with

    # The way back
    @abstractmethod
    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None: ...
    @abstractmethod
    def block(self, data: bytes, now: float) -> None: ...
    @abstractmethod
    def end(self, now: float) -> None: ...
    @abstractmethod
    def _clear_answer(self) -> None: ...
    @abstractmethod
    def _end_badly(self, refusal: Refusal, now: float) -> None: ...
    @abstractmethod
    def _close_with(self, events: bytes, now: float) -> None: ...

    # The way there
    def send(self, now: float, fresh: bool = False) -> None:
        """Choose a replica and send the request to it. Raises `Refusal` where there is none to ask."""
        exchange, pipeline = self._exchange, self._pipeline
        why: str = "holder"
        passed: PassedBy = ()
        if self._only is not None:
            replica = self._holder(self._only, now)
        elif fresh and (same := exchange.replica) is not None and same.ready and not same.draining:
            replica, why = same, "again"  # if it has died of the request, no other shall
        else:
            groups = pipeline.replicas.groups(exchange.model)
            self._several = len(groups) > 1
            try:
                replica, why, passed = pipeline.routing.choose(groups, now, exchange.affinity, self._avoid)
            except EngineUnavailable:
                self._unrouted(groups, now)
                raise
        if replica.upstream.is_full():
            refusal = Overloaded("The engine has as many connections as it may. Try again shortly.", retry_after_s=1)
            refusal.facts = {"reason": "connections", "replica": replica.name}
            raise refusal
        exchange.replica = replica
        exchange.steps.append((now, "attempt", replica.name, why, passed))
        if exchange.trace is not None:
            exchange.traceparent = exchange.trace.traceparent(len(exchange.steps))
        self._refreshed = fresh
        if not fresh:  # else it is the same attempt: how the replica stood is told by when it was asked first
            exchange.attempts += 1
            self._trusted = replica.breaker.state is _CLOSED
        self._status = 0
        self._progress_at = self._sent_at = now
        self._clear_answer()
        self._slot = replica.acquire(now, exchange.work_tokens)
        self._connection = replica.upstream.send(self._request(replica), self, fresh=fresh)

    def _holder(self, only: Replica, now: float) -> Replica:
        """The one replica that may be asked. Raises `EngineUnavailable`."""
        if not only.ready:
            self._exchange.steps.append((now, "unrouted", ((only.name, "not ready"),)))
            raise EngineUnavailable("The engine that holds this response is not ready.", retry_after_s=5)
        return only

    def _unrouted(self, groups: Sequence[Group[Replica]], now: float) -> None:
        """Say once why none can be asked; it may wait for one, and ask again."""
        exchange = self._exchange
        if not exchange.steps or exchange.steps[-1][1] != "unrouted":
            replicas = (replica for group in groups for replica in group.replicas)
            exchange.steps.append((now, "unrouted", passed_by(replicas, now, self._avoid)))

    def _request(self, replica: Replica) -> bytes:
        """The bytes to send. Every attempt has an id of its own: an engine may still know the one before."""
        exchange, continuation = self._exchange, self._continuation
        path, body = exchange.route.path, self._body
        if continuation is not None:
            path, body = continuation.path, continuation.body
        engine_id = exchange.engine_id if exchange.attempts == 1 else f"{exchange.engine_id}-{exchange.attempts}"
        return b"%sx-request-id: %s\r\n%s%scontent-length: %d\r\n\r\n%s" % (
            replica.request_head(exchange.route.method, path),
            engine_id.encode(),
            self._priority_line() if self._pipeline.forward_priority else b"",
            self._trace_lines() if exchange.traceparent is not None or self._pipeline.tracing is not None else b"",
            len(body),
            body,
        )

    def _trace_lines(self) -> bytes:
        exchange = self._exchange
        line = b"traceparent: %s\r\n" % (exchange.traceparent or not_sampled(exchange.engine_id))
        return line + b"tracestate: %s\r\n" % exchange.tracestate if exchange.tracestate else line

    def _priority_line(self) -> bytes:
        """vLLM schedules the lowest number first; ours is the highest."""
        principal = self._exchange.principal
        return b"x-vllm-priority: %d\r\n" % -principal.priority if principal is not None else b""

    def failed(self, failure: Failure) -> None:
        """The attempt came to nothing: find the way on. (See the module's text.)"""
        now = monotonic()
        if self._ended_well:  # only the end of the HTTP message was missing
            self.end(now)
            return
        if is_stale_connection(failure):
            self._exchange.steps.append((now, "failed", "stale", "the connection kept alive had ended"))
            self._let_go("cancelled", now)
            try:
                self.send(now, fresh=True)
            except Refusal as none_to_ask:  # so it was no race: the engine is gone
                self._go_on(none_to_ask, now, lost=True)
            return
        self._let_go("cancelled" if failure.kind == "local" else "failed", now)
        self._exchange.steps.append((now, "failed", failure.kind, str(failure)[:MOST_DETAIL]))
        refusal, replica = refusal_from_failure(failure, generated=self._has_worked(failure)), self._exchange.replica
        if failure.kind in ("connect", "local") and now < self._wait_until:
            self._avoid = replica  # the one to take over is not up either: `check` asks another
        elif failure.kind == "local":  # no other could be reached
            refusal.facts = {"reason": "descriptors", "replica": replica.name if replica is not None else ""}
            self._end_badly(refusal, now)
        else:
            gone = failure.kind == "connect" and self._refreshed  # the kept-alive connection had ended for a reason
            self._go_on(refusal, now, lost=gone or is_loss(failure))

    def _has_worked(self, failure: Failure) -> bool:
        """Whether tokens were generated, as far as can be told: nothing of a whole answer comes before all of it."""
        demand = self._exchange.demand
        whole = self._exchange.route.generates and (demand is None or not demand.stream)
        return self._streaming or (whole and failure.kind == "timeout")

    def _answered_badly(self, refusal: Refusal, now: float, *, lost: bool) -> None:
        """The engine's answer is none: find the way on. Its own words are not told, a prompt may be among them."""
        self._exchange.steps.append((now, "failed", refusal.code, f"answered {self._status}"))
        self._go_on(refusal, now, lost=lost)

    def _go_on(self, refusal: Refusal, now: float, *, lost: bool) -> None:
        """Have another replica take over, if policy allows it; else tell the caller `refusal`.

        `lost`: the engine went away, rather than failed. What has begun to reach the client, or was lost before, is
        taken over whatever goes wrong: the caller cannot ask again without losing what it has.
        """
        plan = self._plan() if self._streaming else None
        if isinstance(plan, bytes):
            self._close_with(plan, now)
            return
        begun = self._streaming or now < self._wait_until
        no: Refusal | None = refusal
        if self._only is None and (plan is not None or not self._streaming):
            loss = begun or (lost and self._trusted)
            no = self._no_takeover(refusal, now) if loss else self._no_retry(refusal, now)
        if no is not None:
            self._end_badly(no, now)
            return
        self._avoid, self._why, self._continuation = self._exchange.replica, refusal, plan
        self._resumes = plan is not None
        self._pipeline.recorder.goes_on(self._exchange, refusal, resumes=plan is not None)
        self._take_over(now)

    def _no_takeover(self, refusal: Refusal, now: float) -> Refusal | None:
        """What the caller is told; None where another replica may take over, which is counted."""
        limits = self._pipeline.relay_limits
        most = limits.max_takeovers
        if not self._streaming:  # it may be what kills them: then not many more are to follow
            most = min(most, limits.max_attempts - self._retries)
        if self._exchange.takeovers >= most:
            return refusal
        if now < self._wait_until and self._status != 200:  # the one to take over brought nothing
            self._not_before = now + VAIN_PAUSE_S * self._exchange.takeovers
        self._exchange.takeovers += 1
        self._wait_until = now + limits.takeover_wait_s
        return None

    def _no_retry(self, refusal: Refusal, now: float) -> Refusal | None:
        """What the caller is told; None where there may be another attempt, which is paid for."""
        limits = self._pipeline.relay_limits
        exchange = self._exchange
        used_up = self._retries + 1 >= limits.max_attempts or self._retries + exchange.takeovers >= limits.max_attempts
        if used_up or now - exchange.started_at >= limits.request_timeout_s:
            return refusal
        if not self._pipeline.retry_budget.spend((exchange.principal or ANONYMOUS).tenant, now):
            spent = EngineUnavailable("Too many attempts fail just now. Try again shortly.", retry_after_s=2)
            spent.facts = {"reason": "retry_budget"}
            return spent
        self._retries += 1
        return None

    def _plan(self) -> Continuation | bytes | None:
        """How to go on with the stream that was cut."""
        exchange = self._exchange
        if self._transcript is None:
            return None
        context = self._pipeline.replicas.context_tokens(exchange.model)
        return resume.plan(self._transcript, exchange.route.path, self._body, context)

    def _take_over(self, now: float) -> None:
        """Ask a replica now; or, where an engine was lost and none can be asked, in a moment."""
        if now < self._not_before:
            return
        try:
            self.send(now)
        except Refusal as refusal:
            self._avoid = None  # it may come back
            if now >= self._wait_until:
                self._end_badly(self._why or refusal, now)

    def check(self, now: float) -> None:
        """Try again, if that is waited for; give up where nothing has come for too long.

        A client that does not read is no fault of the engine's.
        """
        if self._connection is None:
            self._take_over(now)
        elif not self._paused:
            limits = self._pipeline.relay_limits
            limit = limits.stall_timeout_s if self._streaming and self._status else limits.first_byte_timeout_s
            if now - self._progress_at > limit:
                self._connection.fail("timeout", f"nothing came for {limit:g} s")

    def excuse(self, now: float) -> None:
        """Count the engine's silence from now on."""
        self._progress_at = now

    @property
    def waits_since(self) -> float | None:
        """Since when the engine owes this exchange something; None where it does not, or the client is the slow one."""
        if self._paused or self._connection is None or not self._exchange.route.generates:
            return None
        return self._progress_at

    @property
    def moved_at(self) -> float:
        """When bytes of this attempt's answer came last; 0 before the first."""
        return self._progress_at if self._status else 0.0

    def stalled(self) -> None:
        """The engine has stalled: this attempt comes to nothing."""
        if self._connection is not None:
            self._connection.fail("stalled", "the engine makes no progress")

    def _end_pause(self, now: float) -> None:
        """Count the time for which the client did not take what there was."""
        if self._paused_at:
            self._exchange.paused_s += now - self._paused_at
            self._paused_at = 0.0

    # Ending an attempt
    def abandon(self, outcome: Outcome, now: float) -> None:
        """Stop the engine's work on this attempt."""
        if self._connection is not None:
            self._connection.cancel()
        self._let_go(outcome, now)

    def _let_go(self, outcome: Outcome, now: float) -> None:
        """The attempt is over: `answered`, `failed` on the engine's side, or `cancelled`, which says nothing of it."""
        self._connection = None
        if self._paused_at:
            self._end_pause(now)
        if self._slot is not None:
            self._slot.release(outcome, now)
            self._slot = None
            if self._several:
                self._pipeline.recorder.attempted(self._exchange, outcome, self._sent_at)
