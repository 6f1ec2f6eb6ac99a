"""Who is in the pool: brings the replicas in line with what the sources observe, while requests run.

A replica that is found is made and watched; the monitor takes it into rotation when it answers. One that is no longer
found drains: it gets no new request, finishes what it has, however long that takes, and is gone at the first sweep
after. Until then it is taken back if it is found again.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

from forebay.replicas.discovery.source import Endpoint, Endpoints, Source
from forebay.replicas.pool import ReplicaPool
from forebay.replicas.replica import Replica

log = logging.getLogger("forebay.replicas")


def plan(current: Endpoints, observed: Endpoints) -> tuple[list[Endpoint], list[Endpoint]]:
    """Which endpoints join and which leave; `current` are those that are in and not leaving already."""
    return _by_name(observed - current), _by_name(current - observed)


def _by_name(endpoints: Endpoints) -> list[Endpoint]:
    return sorted(endpoints, key=lambda endpoint: endpoint.name)


class Membership:
    """Follows the sources. `make` makes a replica, `watch` keeps its state true, `spawn` runs a task of ours."""

    def __init__(
        self,
        pool: ReplicaPool,
        sources: Sequence[Source],
        *,
        make: Callable[[Endpoint], Replica],
        watch: Callable[[Replica], Coroutine[Any, Any, None]],
        spawn: Callable[[str, Callable[[], Coroutine[Any, Any, None]]], "asyncio.Task[None]"],
    ) -> None:
        self._pool = pool
        self._sources = sources
        self._make = make
        self._watch = watch
        self._spawn = spawn
        self._observed: dict[str, Endpoints] = {}
        self._members: dict[Endpoint, Replica] = {}
        self._watching: dict[Endpoint, asyncio.Task[None]] = {}
        self._following: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        leaving = sum(replica.draining for replica in self._members.values())
        return f"<Membership {len(self._members)} members, {leaving} leaving>"

    def follow(self) -> None:
        """Begin to observe every source."""
        self._following = [self._spawn("discovery", partial(self._follow, source)) for source in self._sources]

    def change(self, sources: Sequence[Source]) -> None:
        """Observe other sources from now on. What one found stands until one of the same name has looked."""
        for task in self._following:
            task.cancel()
        self._sources = sources
        names = {source.name for source in sources}
        self._observed = {name: found for name, found in self._observed.items() if name in names}
        self.follow()

    def sweep(self) -> None:
        """Let go of the replicas that leave and have finished; called a few times a second."""
        for endpoint, replica in list(self._members.items()):
            if replica.draining and not replica.in_flight:
                self._remove(endpoint)

    def found(self) -> Iterator[tuple[Source, int]]:
        """Each source, and how many endpoints it has."""
        return ((source, len(self._observed.get(source.name, ()))) for source in self._sources)

    def missing(self) -> list[str]:
        """Why there is nothing from a source, for each that has nothing."""
        return [
            f"{source.name}: {source.outage.why or self._nothing(source)}"
            for source, count in self.found()
            if not count
        ]

    def _nothing(self, source: Source) -> str:
        return "names no engine" if source.name in self._observed else "nothing has been found yet"

    async def _follow(self, source: Source) -> None:
        async for observed in source.observe():
            self._observed[source.name] = observed
            self._reconcile()

    def _reconcile(self) -> None:
        current = frozenset(endpoint for endpoint, replica in self._members.items() if not replica.draining)
        observed: Endpoints = frozenset().union(*self._observed.values())
        joining, leaving = plan(current, observed)
        for endpoint in joining:
            self._join(endpoint)
        for endpoint in leaving:
            self._members[endpoint].draining = True
            log.info("replica leaves", extra=self._facts(endpoint))
        self._regroup(observed)

    def _regroup(self, observed: Endpoints) -> None:
        """Take in that the sources put replicas into other groups."""
        changed = [(self._members[endpoint], endpoint.group) for endpoint in observed]
        changed = [(replica, group) for replica, group in changed if replica.group != group]
        for replica, group in changed:
            replica.group = group
        if changed:
            self._pool.refresh()

    def _join(self, endpoint: Endpoint) -> None:
        if endpoint in self._members:
            self._members[endpoint].draining = False
            log.info("replica stays after all", extra=self._facts(endpoint))
            return
        replica = self._members[endpoint] = self._make(endpoint)
        self._watching[endpoint] = self._spawn("replicas", partial(self._watch, replica))
        self._pool.add(replica)
        log.info("replica found", extra=self._facts(endpoint))

    def _remove(self, endpoint: Endpoint) -> None:
        log.info("replica gone", extra=self._facts(endpoint))
        self._watching.pop(endpoint).cancel()
        replica = self._members.pop(endpoint)
        self._pool.remove(replica)
        replica.upstream.close()

    def _facts(self, endpoint: Endpoint) -> dict[str, Any]:
        return {"replica": endpoint.name, "in_flight": self._members[endpoint].in_flight}
