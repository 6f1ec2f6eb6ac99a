"""Whatever happens to requests in whatever order, each ends once, and what it held is given back.

Pipeline, relays, policies and connections are the real ones; only sockets are missing, so engines' bytes and ends of
connections come when the machine says so.
"""

from asyncio import Future
from time import monotonic
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.failures import FailureKind
from forebay.gateway.exchange import Exchange, Head
from forebay.gateway.pipeline import Pipeline
from forebay.gateway.resolving import Resolving
from forebay.gateway.routes import find_route
from forebay.gateway.sending import RelayLimits
from forebay.policy.admission import Admission
from forebay.policy.auth import ANONYMOUS, Authenticator
from forebay.policy.limits import Defaults, Limits
from forebay.policy.line import AdmissionRules
from forebay.policy.presets import Presets
from forebay.policy.retry import RetryBudget
from forebay.policy.routing import Routing
from forebay.refusals import Refusal
from forebay.replicas.pool import ReplicaPool
from forebay.replicas.replica import Replica
from forebay.room import Room
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.recorder import Recorder
from forebay.upstream.connection import Connection, Reader
from forebay.upstream.pool import Address, UpstreamPool
from forebay.wire.body import BodyLimits

TOKEN = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":" t"},"token_ids":[1]}]}\n\n'
FINISH = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
ABORT = FINISH.replace(b"stop", b"abort")
ERROR = b'data: {"error":{"message":"no","type":"InternalServerError","code":500}}\n\n'
WHOLE = b'{"id":"x","choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'


def answer(status: bytes, body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (status, kind, len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE_ANSWERS = [
    answer(b"200 OK", WHOLE),
    answer(b"200 OK", WHOLE.replace(b"stop", b"abort")),
    answer(b"200 OK", b"<html>", b"text/html"),
    answer(b"400 Bad Request", b'{"error":{"message":"no"}}'),
    answer(b"500 Internal Server Error", b"{}"),
    answer(b"503 Service Unavailable", b"{}"),
    b"no HTTP\r\n\r\n",
    answer(b"200 OK", b"x" * 40_000)[:-20_000],  # a large one that has begun
]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_PARTS = [chunk(part) for part in (TOKEN, FINISH, ABORT, ERROR, b": ping\n\n", b"data: [DONE]\n\n")] + [
    b"0\r\n\r\n"
]


class Unconnected(UpstreamPool):
    """Connections that are never made, yet carry what the test feeds them; `made` has them in order."""

    def __init__(self, name: str) -> None:
        super().__init__(Address(name), connect_timeout_s=1, idle_s=1, max_connections=3)
        self.made: list[Connection] = []

    def send(self, request: bytes, reader: Reader, *, fresh: bool = False) -> Connection:
        idle = self._idle and not fresh
        connection = self._idle.pop() if idle else Connection(self._outbox, self._idle.append, self._forget)
        connection.send(request, reader)
        if connection not in self._all:
            self._all.add(connection)
            self.made.append(connection)
        return connection

    @property
    def busy(self) -> list[Connection]:
        return [connection for connection in self.made if not connection.closed and connection not in self._idle]


class Caller:
    """Where answers go; it is told of each exchange's end once."""

    address = "test"

    def __init__(self) -> None:
        self.answers = 0
        self.over = 0

    def respond(self, exchange: Exchange, status: int, *_: Any, **__: Any) -> None:
        exchange.answer_status = status
        self.answers += 1

    def start_stream(self, exchange: Exchange, events: bytes) -> None:
        exchange.answer_status = 200
        self.answers += 1

    def write_stream(self, events: bytes) -> None:
        assert not self.over

    def end_stream(self, events: bytes) -> None:
        assert not self.over

    def exchange_over(self, exchange: Exchange, now: float) -> None:
        self.over += 1


class Requests(RuleBasedStateMachine):
    """Two engines, a few requests at once, and anything that may happen to either."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas = [self._replica(name) for name in "ab"]
        pool = ReplicaPool(self.replicas, {})
        body_limits = BodyLimits(
            max_n=8, max_logprobs=20, max_stop=4, max_output_tokens=1000, max_json_depth=64, max_json_parts=100
        )
        self.pipeline = Pipeline(
            Authenticator({}, anonymous=ANONYMOUS),
            Limits(Defaults()),
            Admission(AdmissionRules(4, 4, 30.0), capacity=lambda model: 100, promise=Future, random=lambda: 0.5),
            pool,
            Routing("least_outstanding"),
            Recorder(Metrics(), None),
            resolving=Resolving(pool, body_limits, Presets({}), None, 256),
            relay_limits=RelayLimits(600.0, 300.0, 60.0, 1 << 20, 1 << 20, 2, 2, 120.0),
            room=Room(1 << 20),
        )
        self.pipeline.retry_budget = RetryBudget(per_s=0.0)  # the same, however fast the machine is
        self.callers: list[Caller] = []
        self.exchanges: list[Exchange] = []  # in order, which `running` has not
        self.streams: set[Connection] = set()  # whose head has come

    def _replica(self, name: str) -> Replica:
        return Replica(name, Unconnected(name), models={"m": {"id": "m"}}, ready=True)

    def _busy(self) -> list[Connection]:
        return [connection for replica in self.replicas for connection in _upstream(replica).busy]

    def _running(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange in self.pipeline.running]

    @rule(stream=st.booleans(), resumable=st.booleans())
    def a_request_comes(self, stream: bool, resumable: bool) -> None:
        caller: Any = Caller()
        route = find_route(b"POST", b"/v1/chat/completions")
        assert route is not None
        head = Head(route, {b"content-type": b"application/json"}, http11=True)
        exchange = Exchange(caller, head, route, head.headers, monotonic())
        try:
            self.pipeline.identify(exchange)
        except Refusal as refusal:  # as after the drain's time
            exchange.refusal = refusal
        extra = b"" if resumable else b',"logprobs":true'
        told = b"true" if stream else b"false"
        exchange.body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":%s%s}' % (told, extra)
        exchange.held_bytes = 100
        self.pipeline.room.add(100)
        self.callers.append(caller)
        self.exchanges.append(exchange)
        self.pipeline.begin(exchange, monotonic())

    @precondition(lambda self: self._busy())
    @rule(data=st.data())
    def an_engine_answers(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self._busy()))
        if connection in self.streams:
            told = data.draw(st.sampled_from(STREAM_PARTS))
        else:
            told = data.draw(st.sampled_from([*WHOLE_ANSWERS, STREAM_HEAD, STREAM_HEAD + chunk(TOKEN)]))
        if told.startswith(STREAM_HEAD):
            self.streams.add(connection)
        connection.data_received(told)
        if connection not in self._busy() or told == b"0\r\n\r\n":
            self.streams.discard(connection)

    @precondition(lambda self: self._busy())
    @rule(data=st.data(), kind=st.sampled_from(["connect", "closed", "invalid", "timeout", "stalled", "local"]))
    def an_attempt_fails(self, data: st.DataObject, kind: FailureKind) -> None:
        data.draw(st.sampled_from(self._busy())).fail(kind, "it happened")

    @precondition(lambda self: self.pipeline.running)
    @rule(data=st.data(), how=st.sampled_from(["leaves", "pauses", "reads on", "stalls"]))
    def something_befalls_a_request(self, data: st.DataObject, how: str) -> None:
        exchange = data.draw(st.sampled_from(self._running()))
        relay = exchange.relay
        assert relay is not None
        match how:
            case "leaves":
                self.pipeline.client_gone(exchange, monotonic())
            case "pauses":
                relay.pause()
            case "reads on":
                relay.resume()
            case "stalls":
                relay.stalled()

    @rule(data=st.data(), ready=st.booleans(), draining=st.booleans())
    def an_engine_comes_or_goes(self, data: st.DataObject, ready: bool, draining: bool) -> None:
        replica = data.draw(st.sampled_from(self.replicas))
        replica.ready, replica.draining = ready, draining

    @rule(later_s=st.sampled_from([0.0, 1.0, 70.0, 130.0]))
    def the_sweep_comes(self, later_s: float) -> None:
        for exchange in self._running():
            if exchange.relay is not None:
                exchange.relay.check(monotonic() + later_s)

    @rule()
    def the_drains_time_is_over(self) -> None:
        self.pipeline.cut_off(monotonic())
        assert not self.pipeline.running

    @invariant()
    def what_is_held_is_what_runs(self) -> None:
        running = self.pipeline.running
        assert self.pipeline.admission.under_way == len(running)
        assert self.pipeline.room.bytes == sum(one.held_bytes for one in running)
        assert all(one.held_bytes >= 100 for one in running)
        assert sum(caller.over == 0 for caller in self.callers) == len(running)
        for replica in self.replicas:
            asked = [one for one in running if one.replica is replica and one.relay and one.relay._connection]
            assert replica.in_flight == len(asked) == len(_upstream(replica).busy)
            assert replica.load == sum(one.work_tokens for one in asked)

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert all(caller.over <= 1 and caller.answers <= 1 for caller in self.callers)

    def teardown(self) -> None:
        for exchange in list(self.pipeline.running):
            self.pipeline.client_gone(exchange, monotonic())
        self.what_is_held_is_what_runs()
        assert all((replica.in_flight, replica.load) == (0, 0) for replica in self.replicas)


def _upstream(replica: Replica) -> Unconnected:
    assert isinstance(replica.upstream, Unconnected)
    return replica.upstream


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
