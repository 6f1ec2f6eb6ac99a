"""Finds engines that have work and make no progress, and takes them out of rotation.

The decision is `policy/progress.py`'s; here its facts are gathered: which exchanges wait for which replica, and, while
a replica has been silent for a while, its step counter and what processor time it uses. A stalled replica's exchanges
come to nothing at once, which has another one take them over.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any

from forebay.absence import absent_during
from forebay.failures import Failure
from forebay.gateway.exchange import Exchange
from forebay.replicas.replica import Replica
from forebay.upstream.questions import count_steps

log = logging.getLogger("forebay.replicas")

LOOK_EVERY_S = 0.25
READ_AFTER = 0.25  # of the time that makes a stall
READ_EVERY_S = 0.5

Read = Callable[[Replica], Coroutine[Any, Any, None]]
OnStall = Callable[[Replica, str], None]


class StallWatch:
    """Looks at the running exchanges a few times a second. `on_stall` is told of each replica found stalled."""

    def __init__(self, running: set[Exchange], on_stall: OnStall) -> None:
        self._running = running
        self._on_stall = on_stall
        self._reading: dict[tuple[Replica, Read], asyncio.Task[None]] = {}

    async def run(self) -> None:
        while True:
            if await absent_during(LOOK_EVERY_S):
                for replica in self._pending():
                    replica.progress.moved(monotonic())
            self.look(monotonic())

    def look(self, now: float) -> None:
        """Decide about every replica that owes somebody something, whether it is in rotation or not."""
        for replica, since in self._pending().items():
            progress = replica.progress
            if progress.stalled(since, now):
                self._stalled(replica, now - since)
            elif progress.silent_s(since, now) > progress.stall_s * READ_AFTER:
                for read in (_read_busy, _read_steps):
                    if (replica, read) not in self._reading:
                        reading = asyncio.get_running_loop().create_task(self._read(replica, read))
                        self._reading[replica, read] = reading

    def _pending(self) -> dict[Replica, float]:
        """Each replica that is waited for, and since when. Of what it sent meanwhile its progress is told here, so that
        a block costs nothing."""
        pending: dict[Replica, float] = {}
        for exchange, since in _waiting(self._running):
            if (replica := exchange.replica) is not None and exchange.relay is not None:
                pending[replica] = min(since, pending.get(replica, since))
                replica.progress.moved(exchange.relay.moved_at)
        return pending

    def _stalled(self, replica: Replica, age_s: float) -> None:
        why = f"stalled: work has waited {age_s:.1f} s and nothing moves"
        replica.has_stalled(why)
        log.error("replica stalled", extra={"replica": replica.name, "in_flight": replica.in_flight, "why": why})
        for exchange, _ in list(_waiting(self._running)):
            if exchange.replica is replica and exchange.relay is not None:
                exchange.relay.stalled()
        self._on_stall(replica, why)

    async def _read(self, replica: Replica, read: Read) -> None:
        """Each by itself: of an engine that was stopped the counter does not come, and the other says so meanwhile."""
        try:
            await read(replica)
            await asyncio.sleep(min(READ_EVERY_S, replica.progress.stall_s * READ_AFTER))
        finally:
            del self._reading[replica, read]


async def _read_busy(replica: Replica) -> None:
    if replica.busy_seconds is not None:
        busy_s = await asyncio.to_thread(replica.busy_seconds)  # it reads a file for each thread of the engine
        replica.progress.computed(busy_s, monotonic())


async def _read_steps(replica: Replica) -> None:
    try:
        steps = await count_steps(replica.upstream, max(replica.progress.stall_s * READ_AFTER, 1.0), replica.api_key)
    except Failure as failure:
        log.debug("step counter unread", extra={"replica": replica.name, "why": str(failure)})
    else:
        replica.progress.counted(steps, monotonic())


def _waiting(running: Iterable[Exchange]) -> Iterable[tuple[Exchange, float]]:
    for exchange in running:
        if exchange.relay is not None and (since := exchange.relay.waits_since) is not None:
            yield exchange, since
