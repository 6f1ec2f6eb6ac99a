"""THE LIFE OF A REQUEST, top to bottom. The order of the policies is here and nowhere else.

`identify` runs when a request's headers are in, `begin` when its body is, `finish` when it is over, each exactly
once; whatever ends an exchange ends in `finish`. Only where a policy says that it has to wait does a request become a
task: an uncontended one costs none. A large body is read in a thread, one such body after the other, so that it holds
up nobody else's request. Policies know neither each other nor the exchange; they raise a `Refusal` or return
what they decided.
"""

import asyncio
import os
from collections.abc import Awaitable, Generator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, time
from typing import Any, Protocol

from forebay.gateway.caching import ASK_HEADER, Caching, replay
from forebay.gateway.errors import error_body, error_headers
from forebay.gateway.exchange import Exchange
from forebay.gateway.relay import Relay
from forebay.gateway.resolving import Resolving
from forebay.gateway.sending import RelayLimits
from forebay.policy.admission import Admission
from forebay.policy.auth import ANONYMOUS, Authenticator, Principal, require
from forebay.policy.compiling import Compiling
from forebay.policy.limits import LimitLease
from forebay.policy.line import Place
from forebay.policy.retry import RetryBudget
from forebay.policy.routing import Routing
from forebay.policy.verdict import Outcome
from forebay.refusals import Draining, InternalError, RateLimited, Refusal
from forebay.replicas.pool import ReplicaPool
from forebay.room import Room
from forebay.telemetry.recorder import Recorder
from forebay.telemetry.tracing import Tracing, pass_on
from forebay.wire.body import LARGE_BYTES, prompt_tokens
from forebay.wire.head import check_json
from forebay.wire.headers import RequestIds, accepted_request_id
from forebay.wire.timings import read_s


class LimitsView(Protocol):
    """Limits, of this gateway alone or shared with others."""

    def acquire(self, principal: Principal, address: str, tokens: int, now: float) -> LimitLease | None: ...


class Pipeline:
    """The policies in their order, and the exchanges now running."""

    def __init__(
        self,
        auth: Authenticator,
        limits: LimitsView,
        admission: Admission,
        replicas: ReplicaPool,
        routing: Routing,
        recorder: Recorder,
        *,
        resolving: Resolving,
        relay_limits: RelayLimits,
        cache: Caching | None = None,
        most_compiling: int = 0,
        tracing: Tracing | None = None,
        room: Room,
        forward_priority: bool = False,
    ) -> None:
        self.auth = auth
        self.limits = limits
        self.admission = admission
        self.replicas = replicas
        self.recorder = recorder
        self.routing = routing
        self.retry_budget = RetryBudget()
        self.resolving = resolving
        self.relay_limits = relay_limits
        self.cache = cache
        self.compiling = Compiling(most_compiling)
        self.tracing = tracing
        self.room = room
        self.forward_priority = forward_priority
        self.running: set[Exchange] = set()
        self.draining = False
        self._over = False  # the drain's time, that is
        self._ids = RequestIds(os.urandom)
        self._large = ThreadPoolExecutor(1, "large-bodies")

    def identify(self, exchange: Exchange) -> None:
        """Who is calling, and may they send a body at all? Raises `Refusal`; needs the headers only."""
        self._name(exchange)
        if self._over:
            raise _stopped()
        head = exchange.head
        who = self.auth.anonymous or self.auth.recognise(head.credential or head.presented(), time(), head.address)
        if isinstance(who, Principal):
            self._admit(exchange, who)
        else:
            exchange.identity = who
        if not head.is_json and exchange.route.response_id is None:
            check_json(head.headers.get(b"content-type"))
            head.is_json = True

    def adopt(self, exchange: Exchange) -> None:
        """The same for a request that Forebay makes for a principal it has already recognised."""
        self._name(exchange)
        try:
            if self._over:
                raise _stopped()
            assert exchange.principal is not None
            require(exchange.principal, "inference")
        except Refusal as refusal:
            exchange.refusal = refusal

    def _name(self, exchange: Exchange) -> None:
        headers = exchange.headers
        exchange.engine_id = self._ids.next()  # ours always: an engine takes it as its own id, so it must be unique
        exchange.request_id = exchange.engine_id
        if (theirs := headers.get(b"x-request-id")) is not None:
            exchange.request_id = accepted_request_id(theirs) or exchange.engine_id
        if self.tracing is not None:
            self.tracing.begin(exchange)
        elif b"traceparent" in headers:
            pass_on(exchange)

    def _admit(self, exchange: Exchange, principal: Principal) -> None:
        exchange.principal = principal
        if "inference" not in principal.scopes:
            require(principal, "inference")

    def begin(self, exchange: Exchange, now: float) -> None:
        """Take a request whose body is in to an engine, or to a refusal; at once, unless a policy has to wait."""
        self.running.add(exchange)
        exchange.begun_at = now
        steps = self._steps(exchange, now)
        try:
            waiting = next(steps, None)
        except Refusal as refusal:
            self.refuse(exchange, refusal, now)
            return
        except Exception as bug:  # noqa: BLE001 (our bug must cost one request, not the connection)
            self._failed(exchange, bug, now)
            return
        if waiting is not None:
            exchange.waiting = asyncio.get_running_loop().create_task(self._wait(exchange, steps, waiting))

    def _steps(self, exchange: Exchange, now: float) -> Generator[Awaitable[Any], Any, None]:
        """The policies in their order. Each that has to wait yields what for; most requests wait for nothing.

        What a policy lends is held by the exchange before it is waited for, so that `finish` gives it back whatever
        happens meanwhile.
        """
        if exchange.refusal is not None:
            raise exchange.refusal
        if exchange.identity is not None:
            found = yield exchange.identity
            self._admit(exchange, self.auth.settled(found, time(), exchange.head.address))
            now = monotonic()
            exchange.steps.append((now, "identified"))
        if exchange.route.response_id is not None:
            body, only = self.resolving.stored_response(exchange, exchange.route.response_id)
        elif len(exchange.body) > LARGE_BYTES:
            body, only = yield asyncio.get_running_loop().run_in_executor(
                self._large, self.resolving.resolve, exchange, self.routing
            )
            now = monotonic()
        else:
            body, only = self.resolving.resolve(exchange, self.routing)
        principal = exchange.principal or ANONYMOUS
        lease = self.limits.acquire(principal, exchange.head.address, self.resolving.tokens_at_most(exchange), now)
        if lease is not None:
            exchange.limited = lease
            exchange.leases.append(lease)
            if lease.decided is not None:
                yield lease.decided
                now = monotonic()
                exchange.steps.append((now, "limits_known"))
            exchange.lines = lease.lines
        cache = self.cache
        if cache is not None and (cache.limits.models or ASK_HEADER in exchange.headers):
            known = yield from cache.steps(exchange, now)
            now = monotonic()
            if known is not None:
                replay(exchange, known)
                self.finish(exchange, "answered", now)
                return
        if exchange.route.generates:
            if exchange.demand is not None and exchange.demand.compiles:
                exchange.leases.append(self.compiling.acquire(principal.tenant))
            place = self._acquire_place(exchange, now)
            if place.granted is not None:
                exchange.steps.append((now, "queued", place.ahead, place.waits_for, *place.seen))
                yield place.granted
                exchange.queued_s = monotonic() - now
                now += exchange.queued_s
                exchange.steps.append((now, "admitted"))
        else:
            exchange.leases.append(self.admission.acquire_unqueued())
        self.retry_budget.asked(principal.tenant)
        relay = exchange.relay = Relay(exchange, self, body, only)
        relay.send(now)

    async def _wait(
        self, exchange: Exchange, steps: Generator[Awaitable[Any], Any, None], waiting: Awaitable[Any]
    ) -> None:
        """Take the steps on from the first that has to wait.

        An exchange may be over though its task was not cancelled: `asyncio.wait_for` of Python 3.11, which clients of
        databases use, drops a cancellation that comes when what it waits for has just been done.
        """
        try:
            while not exchange.finished:
                done = await waiting
                if not exchange.finished:
                    waiting = steps.send(done)
        except StopIteration:
            exchange.waiting = None
        except Refusal as refusal:
            if not exchange.finished:
                self.refuse(exchange, refusal, monotonic())
        except Exception as bug:  # noqa: BLE001
            if not exchange.finished:
                self._failed(exchange, bug, monotonic())

    def _acquire_place(self, exchange: Exchange, now: float) -> Place:
        """A place at the model's engines, or in the line for one."""
        principal, demand, head = exchange.principal, exchange.demand, exchange.head
        assert principal is not None
        assert demand is not None
        patience_s = head.patience_s or head.patience()
        tokens = prompt_tokens(demand, len(exchange.body))
        place = self.admission.acquire(principal, exchange.model, tokens, now, patience_s, stream=demand.stream)
        exchange.leases.append(place)
        exchange.place = place
        return place

    def _failed(self, exchange: Exchange, bug: Exception, now: float) -> None:
        self.recorder.bug(exchange, bug)
        self.refuse(exchange, InternalError("Forebay failed on this request; its log says why."), now)

    def client_gone(self, exchange: Exchange, now: float) -> None:
        """The client went away: nobody wants the answer, or the rest of it."""
        if exchange.finished:
            return
        if exchange.relay is not None:
            exchange.relay.abandon("cancelled", now)
        elif exchange.waiting is not None:
            exchange.waiting.cancel()
        exchange.error_code = "client_closed_request"
        self.finish(exchange, "cancelled", now)

    def refuse(self, exchange: Exchange, refusal: Refusal, now: float) -> None:
        """Answer with an error, nothing having been sent, and end the exchange."""
        exchange.error_code = refusal.code
        exchange.facts = refusal.facts
        if isinstance(refusal, RateLimited):
            exchange.limit_hit = refusal.limit
        body = error_body(refusal, exchange.route.dialect, exchange.request_id)
        exchange.client.respond(
            exchange, refusal.status, b"application/json", body, error_headers(refusal), close=refusal.close
        )
        self.finish(exchange, "failed" if refusal.status >= 500 else "refused", now)

    def finish(self, exchange: Exchange, outcome: Outcome, now: float) -> None:
        """Every exchange ends here exactly once, whatever happened."""
        if exchange.finished:
            raise RuntimeError(f"{exchange!r} ended twice")
        exchange.finished = True
        self.running.discard(exchange)
        if exchange.place is not None:
            _settle(exchange.place, exchange, outcome, now)
        if exchange.limited is not None:
            exchange.limited.spent = _tokens_spent(exchange, outcome)
        for lease in reversed(exchange.leases):  # newest first
            lease.release(outcome, now)
        if exchange.held_bytes:
            self.let_go(exchange)
        self.recorder.finished(exchange, outcome, now)
        exchange.relay = exchange.waiting = None  # no cycle of references is left for the garbage collector to find
        exchange.client.exchange_over(exchange, now)

    def let_go(self, exchange: Exchange) -> None:
        """What was held of its body and its answer is held no more."""
        self.room.give(exchange.held_bytes)
        exchange.held_bytes = 0

    def close(self) -> None:
        """Let the thread for large bodies go; nothing runs any more."""
        self._large.shutdown(wait=False, cancel_futures=True)

    def sweep(self, now: float) -> None:
        """Find the answers that have stopped coming, and who has waited for too long; called a few times a second."""
        contended = self.admission.queued > 0
        for exchange in list(self.running):
            if exchange.relay is not None:
                if contended and exchange.place is not None and exchange.events_out:
                    exchange.place.served(exchange.place.input_tokens, exchange.events_out)
                exchange.relay.check(now)
        self.admission.sweep(now)

    def excuse(self, now: float) -> None:
        """Blame no engine for its silence until now: we were not there to hear it."""
        for exchange in self.running:
            if exchange.relay is not None:
                exchange.relay.excuse(now)

    def cut_off(self, now: float) -> None:
        """End everything that still runs, and begin nothing more: the drain's time is over, and callers are told."""
        self._over = True
        for exchange in list(self.running):
            told = _stopped()
            if exchange.relay is not None:
                exchange.relay.give_up(told, now, "cancelled")
            elif exchange.waiting is not None:
                exchange.waiting.cancel()
                self.refuse(exchange, told, now)


def _settle(place: Place, exchange: Exchange, outcome: Outcome, now: float) -> None:
    """Tell a place what was served in the end: by the engine's count, else ours; nothing where an engine failed."""
    if exchange.timings is not None and (took_s := read_s(exchange.timings)) is not None and not place.stream:
        place.read(now, took_s)
    usage = exchange.usage
    if usage is not None:
        place.served(usage.prompt_tokens, usage.completion_tokens)
    elif exchange.events_out or outcome == "cancelled":
        place.served(place.input_tokens, exchange.events_out)
    else:
        place.served(0, 0)


def _tokens_spent(exchange: Exchange, outcome: Outcome) -> int | None:
    """The tokens that a request needed: as the engine counted them or, where it ended early, what was delivered and
    the prompt, about. None where it was answered and nobody counted."""
    if exchange.cache_state == "hit":
        return 0
    if (usage := exchange.usage) is not None:
        completion = usage.completion_tokens
        if outcome != "answered":  # some that were delivered may not be told of
            completion = max(completion, exchange.events_out)
        return usage.prompt_tokens + completion
    if outcome == "answered" and not exchange.events_out:
        return None
    if exchange.events_out or (outcome == "cancelled" and exchange.attempts):
        asked = exchange.demand if exchange.route.generates else None
        return exchange.events_out + (prompt_tokens(asked, len(exchange.body)) if asked is not None else 0)
    return 0


def _stopped() -> Draining:
    return Draining("The gateway stopped before the answer was complete.", should_retry=True, retry_after_s=1)
