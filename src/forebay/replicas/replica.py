"""An engine as the gateway sees it: where it is, which models it serves, whether it may be asked, how busy it is.

`in_flight` and `load` are our own count of requests and of tokens under way; the engine's gauges lag by seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from forebay.policy.breaker import Breaker
from forebay.policy.progress import Progress
from forebay.policy.routing import DEFAULT_GROUP
from forebay.policy.verdict import Outcome
from forebay.upstream.pool import UpstreamPool

STALL_S = 60.0


@dataclass(eq=False, slots=True)
class Replica:
    """One engine. `models` maps the names it serves to its own description of them (OpenAI's model object); `suspect`
    says that it stalled and has not generated since; `draining`, that it is leaving and gets no new requests; `group`
    tells versions of a model apart; `concurrency` is how many requests it shall have at once; `busy_seconds` tells how
    long its threads have computed, or waited for a processor, where its processes can be seen."""

    name: str
    upstream: UpstreamPool
    api_key: str | None = field(default=None, repr=False)
    group: str = DEFAULT_GROUP
    concurrency: int = 256
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    ready: bool = False
    why: str = "not checked yet"
    in_flight: int = 0
    load: int = 0
    draining: bool = False
    breaker: Breaker = field(default_factory=Breaker)
    progress: Progress = field(default_factory=lambda: Progress(STALL_S))
    suspect: bool = False
    busy_seconds: Callable[[], float] | None = field(default=None, repr=False)
    stalls: int = 0
    metrics_failures: int = 0
    heads: dict[bytes, bytes] = field(default_factory=dict, repr=False)

    def acquire(self, now: float, cost: int) -> "AttemptLease":
        """Count one attempt of `cost` tokens as under way until the lease is released."""
        self.in_flight += 1
        self.load += cost
        self.breaker.asked(now)
        return AttemptLease(self, cost)

    def has_stalled(self, why: str) -> None:
        """It has work and makes no progress: it is out of rotation, and counted where it was in it."""
        self.stalls += self.ready
        self.ready, self.suspect, self.why = False, True, why

    def request_head(self, method: bytes, path: bytes) -> bytes:
        """Request line and the headers that are the same for every request on a path; made once."""
        head = self.heads.get(method + path)
        if head is None:
            address = self.upstream.address
            lines = [b"%s %s%s HTTP/1.1" % (method, address.prefix.encode(), path)]
            lines.append(b"host: " + address.authority.encode())
            if self.api_key:
                lines.append(b"authorization: Bearer " + self.api_key.encode())
            if method == b"POST":
                lines.append(b"content-type: application/json")
            head = b"\r\n".join(lines) + b"\r\n"
            if b"responses/" not in path:  # those paths are many
                self.heads[method + path] = head
        return head


class AttemptLease(msgspec.Struct, eq=False):
    """One attempt under way. (A Struct, because one is made a request.)"""

    replica: Replica | None
    cost: int

    def release(self, outcome: Outcome, now: float) -> None:
        """Give it back and tell the breaker how it ended. Raises RuntimeError the second time."""
        replica, self.replica = self.replica, None
        if replica is None:
            raise RuntimeError("a lease was released twice")
        replica.in_flight -= 1
        replica.load -= self.cost
        if outcome == "answered":
            replica.breaker.succeeded(now)
            replica.progress.moved(now)
        elif outcome == "failed":
            replica.breaker.failed(now)
        else:
            replica.breaker.left(now)
