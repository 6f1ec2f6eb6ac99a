"""One request and all that is learned about it, from its first byte to its last. Slots, no behaviour but bookkeeping.

An exchange is made by `server.py` when a relayed request's headers are in, filled by the pipeline and the relay, and
read by the recorder when it is over.
"""

from typing import TYPE_CHECKING

from forebay.policy.affinity import Affinity
from forebay.policy.auth import Principal
from forebay.policy.verdict import Lease
from forebay.wire.usage import Usage

if TYPE_CHECKING:
    from forebay.gateway.relay import Relay
    from forebay.gateway.routes import Route
    from forebay.gateway.server import ClientConnection
    from forebay.refusals import Refusal
    from forebay.replicas.replica import Replica
    from forebay.wire.body import Demand


class Exchange:
    """Times are monotonic seconds, 0 where the moment has not come."""

    __slots__ = (
        "affinity",
        "answer_status",
        "attempts",
        "body",
        "bytes_out",
        "client",
        "demand",
        "engine_id",
        "error_code",
        "events_out",
        "finished",
        "first_token_at",
        "headers",
        "http11",
        "last_token_at",
        "leases",
        "model",
        "principal",
        "refusal",
        "relay",
        "replica",
        "request_id",
        "resumable",
        "route",
        "started_at",
        "takeovers",
        "traceparent",
        "usage",
        "work_tokens",
    )

    def __init__(
        self,
        client: "ClientConnection",
        route: "Route",
        headers: dict[bytes, bytes],
        http11: bool,
        now: float,
    ) -> None:
        self.client = client
        self.route = route
        self.headers = headers
        self.http11 = http11
        self.started_at = now
        self.body = b""
        self.request_id = ""
        self.engine_id = ""
        self.traceparent: bytes | None = None
        self.principal: Principal | None = None
        self.demand: Demand | None = None
        self.model = ""
        self.affinity: Affinity | None = None
        self.work_tokens = 0
        self.refusal: Refusal | None = None
        self.relay: Relay | None = None
        self.replica: Replica | None = None
        self.leases: list[Lease] = []
        self.attempts = 0
        self.takeovers = 0
        self.first_token_at = 0.0
        self.last_token_at = 0.0
        self.usage: Usage | None = None
        self.resumable = False
        self.answer_status = 0
        self.error_code = ""
        self.bytes_out = 0
        self.events_out = 0
        self.finished = False

    def __repr__(self) -> str:
        state = "finished" if self.finished else "running"
        return f"<Exchange {self.request_id} {self.route.name} {state} status={self.answer_status}>"

    def hold(self, lease: Lease) -> None:
        """Keep a lease until the exchange is over."""
        self.leases.append(lease)
