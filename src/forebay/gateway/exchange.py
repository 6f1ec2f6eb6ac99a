"""One request and all that is learned about it, from its first byte to its last. Slots, no behaviour but bookkeeping.

An exchange is made by `server.py` when a relayed request's headers are in, filled by the pipeline and the relay, and
read by the recorder when it is over.

`steps` are its story, for spans and for `forebay why ID`: what was decided when, nothing of a prompt or an answer. Most
requests have one step only. Each is a time, a name and plain details:

    identified                        the key had to be looked up, and is known now
    limits_known                      the limits had to be asked elsewhere, and have answered
    cache     state                   hit, miss, bypass; waits: for the answer to the same request, under way
    queued    place, why, *seen       its place in line, about; what it waits for (`line.Waits`); how full it was then
                                      (`line.Seen`)
    admitted                          it was its turn
    attempt   replica, why, passed    sent to a replica; why this one and not those (`routing.py`)
    failed    kind, detail            the attempt came to nothing, or brought only a part: a failure's kind or an error
                                      code; `stale` is the race of keep-alive, and no fault
    unrouted  passed                  no replica could be asked, and why none
    resumed   events                  the answer goes on behind so many events, from another replica
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from forebay.policy.affinity import Affinity
from forebay.policy.auth import Credential, Principal, presented
from forebay.policy.limits import LimitLease
from forebay.policy.line import Place
from forebay.policy.verdict import Lease
from forebay.room import Held
from forebay.wire.headers import patience_of
from forebay.wire.usage import Usage

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from forebay.gateway.caching import CacheState, Recording
    from forebay.gateway.relay import Relay
    from forebay.gateway.routes import Route
    from forebay.policy.auth import Found
    from forebay.refusals import Refusal
    from forebay.replicas.replica import Replica
    from forebay.telemetry.metrics import Histogram
    from forebay.telemetry.tracing import Trace
    from forebay.wire.body import Demand
    from forebay.wire.timings import Timings


class Client(Protocol):
    """Who is answered: a connection (`answering.py`), or Forebay itself (`inner.py`)."""

    def respond(
        self,
        exchange: "Exchange",
        status: int,
        content_type: bytes,
        body: Held,
        extra: bytes = b"",
        close: bool = False,
    ) -> None: ...
    def start_stream(self, exchange: "Exchange", events: bytes) -> None: ...
    def write_stream(self, events: bytes) -> None: ...
    def end_stream(self, events: bytes) -> None: ...
    def exchange_over(self, exchange: "Exchange", now: float) -> None: ...


Step = tuple[Any, ...]  # (monotonic seconds, name, *details)


class Head(msgspec.Struct, eq=False):
    """A request's head. The next request on the connection may have the same, so what is made of it is kept here."""

    route: "Route"
    headers: dict[bytes, bytes]
    http11: bool
    address: str = ""  # the client's, where proxies that are trusted tell it
    credential: Credential | None = None
    patience_s: float | None = None
    is_json: bool = False  # its content type has been checked

    def presented(self) -> Credential:
        """The key or token that it brings, looked for once. Raises `Unauthorized`."""
        if self.credential is None:
            self.credential = presented(self.headers.get(b"authorization"), self.headers.get(b"x-api-key"))
        return self.credential

    def patience(self) -> float:
        """For how long the caller will wait for its turn, seconds, looked for once. Raises `BadRequest`."""
        if self.patience_s is None:
            self.patience_s = patience_of(self.headers)
        return self.patience_s


class Exchange(msgspec.Struct, eq=False):
    """Times are monotonic seconds, 0 where the moment has not come. (A Struct, because one is made a request.)"""

    client: Client
    head: Head
    route: "Route"
    headers: dict[bytes, bytes]
    started_at: float
    body: bytes = b""
    request_id: str = ""
    engine_id: str = ""
    traceparent: bytes | None = None  # what the engine is told of the trace
    tracestate: bytes = b""
    trace: "Trace | None" = None  # where it is sampled
    principal: Principal | None = None
    identity: "Awaitable[Found] | None" = None  # what tells the principal, where that has to be waited for
    demand: "Demand | None" = None
    model: str = ""
    affinity: Affinity | None = None
    work_tokens: int = 0
    refusal: "Refusal | None" = None
    waiting: "asyncio.Task[None] | None" = None  # what it waits in before it is sent
    relay: "Relay | None" = None
    replica: "Replica | None" = None
    leases: list[Lease] = []  # kept until it is over
    steps: list[Step] = []
    place: Place | None = None
    begun_at: float = 0.0  # its body was in, and it was its turn on its connection
    queued_s: float = 0.0
    limited: LimitLease | None = None  # what it took of its limits, told at the end how many tokens it needed
    attempts: int = 0
    takeovers: int = 0
    resumes: int = 0  # streams that another replica really went on with
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    gaps: "Histogram | None" = None
    longest_gap_s: float = 0.0  # between two blocks of a stream
    longest_gap_at: float = 0.0  # when it ended
    paused_s: float = 0.0  # the client did not take what there was
    timings: "Timings | None" = None  # the engine's own
    usage: Usage | None = None
    resumable: bool = False
    cache_state: "CacheState" = ""  # empty where no cache is asked
    recording: "Recording | None" = None  # of the answer, for the cache
    lines: bytes = b""  # header lines that policies add to the answer
    answer_status: int = 0
    error_code: str = ""
    facts: Mapping[str, Any] | None = None  # behind the refusal (`refusals.py`)
    limit_hit: tuple[str, str] | None = None  # which limit refused it, and whose
    bytes_out: int = 0
    events_out: int = 0
    held_bytes: int = 0  # of its body and its answer, as counted in `Room`
    finished: bool = False

    def __repr__(self) -> str:
        state = "finished" if self.finished else "running"
        return f"<Exchange {self.request_id} {self.route.name} {state} status={self.answer_status}>"
