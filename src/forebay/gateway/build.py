"""Settings → a wired gateway; and its life: start, serve, drain, stop. The one place where the parts meet."""

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Coroutine, Iterable, Sequence
from email.utils import formatdate
from functools import partial
from time import monotonic
from types import FrameType
from typing import Any, Protocol

import uvicorn

from forebay import __version__
from forebay.config.settings import Settings
from forebay.ending import Ending
from forebay.gateway.app import make_app
from forebay.gateway.caching import Caching
from forebay.gateway.pipeline import Pipeline
from forebay.gateway.reloading import Reloading
from forebay.gateway.server import ClientConnection
from forebay.gateway.stalls import OnStall, StallWatch
from forebay.gateway.tuning import Tuning
from forebay.policy.admission import Admission
from forebay.policy.auth import UNLIMITED, KeyLimits
from forebay.policy.breaker import Breaker, BreakerLimits, BreakerState
from forebay.policy.limits import Defaults, Limits
from forebay.policy.line import AdmissionRules
from forebay.policy.progress import Progress
from forebay.policy.routing import DEFAULT_GROUP
from forebay.replicas.discovery.source import Endpoint, Source
from forebay.replicas.membership import Membership
from forebay.replicas.monitor import watch
from forebay.replicas.pool import ReplicaPool
from forebay.replicas.replica import Replica
from forebay.store.audit import AuditLog
from forebay.store.cache_redis import SharedEntries
from forebay.store.database import Database
from forebay.store.directory import KeyDirectory
from forebay.store.ledger import Ledger, open_ledger
from forebay.store.seeded_limits import SeededLimits
from forebay.store.shared_limits import SharedLimits
from forebay.store.tokens import Tokens
from forebay.telemetry import catalogue as metric
from forebay.telemetry.engines import EngineView, watch_engines
from forebay.telemetry.logging import LogWriter
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.recorder import Recorder
from forebay.upstream.pool import Address, UpstreamPool
from forebay.wire.headers import RequestIds, accepted_request_id

log = logging.getLogger("forebay.gateway")

SWEEP_EVERY_S = 0.25
FLUSH_S = 1.0
ENGINE_CONCURRENCY = 256  # vLLM's own default on most machines
EXPOSED_HEADERS = b"x-request-id, request-id, retry-after, x-should-retry, x-forebay-cache" + b"".join(
    b", x-ratelimit-%s-%s" % (what, kind)
    for what in (b"limit", b"remaining", b"reset")
    for kind in (b"requests", b"tokens")
)


class RolloutView(Protocol):
    """The rolling replacement of engines that this process owns."""

    def begin(self, *, force: bool = False) -> bool: ...
    def describe(self) -> dict[str, Any]: ...


class Gateway:
    """One process's data plane: the pipeline, the replicas, and what watches them. Raises `NoSpool`."""

    def __init__(
        self,
        settings: Settings,
        writer: LogWriter,
        replicas: Iterable[Replica] = (),
        sources: Sequence[Source] = (),
        database: Database | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.ledger = open_ledger(settings, database) if database is not None and settings.keeps_usage else None
        tally = self.ledger.tally if self.ledger is not None else None
        self.recorder = Recorder(self.metrics, writer if settings.access_log else None, tally)
        self.replicas = ReplicaPool(replicas, settings.model_aliases, settings.group_weights)
        self.membership = Membership(
            self.replicas, sources, make=self._make_replica, watch=self._watch_replica, spawn=self._spawn
        )
        self.engines: list[EngineView] = []
        self.rollout: RolloutView | None = None  # set by who owns engines
        self.reloading: Reloading | None = None  # set by who can load the settings again
        self.database = database
        self.audit = AuditLog(database)
        default = KeyLimits(requests_per_minute=settings.default_rate)
        self.keys = KeyDirectory(database, settings.key_cache_size, default) if database is not None else None
        self.tokens = Tokens(settings, default, self.keys) if settings.uses_tokens else None
        tuning = Tuning.of(settings, keys=self.keys, tokens=self.tokens)
        self.caching = Caching(tuning.cache_limits, _shared_entries(settings))
        self.local_limits = Limits(default_limits(settings))
        self.shared_limits = shared_limits(settings, self.local_limits)
        self.seeded_limits = seeded_limits(settings, self.local_limits, self.ledger, database)
        self.pipeline = Pipeline(
            tuning.auth,
            self.shared_limits or self.seeded_limits or self.local_limits,
            make_admission(tuning.admission_rules, self.replicas),
            self.replicas,
            tuning.routing,
            self.recorder,
            body_limits=tuning.body_limits,
            relay_limits=tuning.relay_limits,
            cache=self.caching if settings.cache_max_bytes else None,
            forward_priority=settings.forward_priority,
            default_max_tokens=settings.default_max_tokens,
        )
        self.connections: set[Any] = set()
        self.on_stall: OnStall = lambda replica, why: None  # who owns the engine may set it before `start`
        self.date_line = b""
        self.default_headers: list[tuple[bytes, bytes]] = []
        self._ids = RequestIds(os.urandom)
        self._cors: dict[str, bytes] = {origin: _cors_lines(origin) for origin in settings.cors_origins}
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_of_forgetting = False
        self._writer = writer
        self._watch_figures(writer)

    def __repr__(self) -> str:
        return f"<Gateway running={len(self.pipeline.running)} {self.replicas!r}>"

    # Life
    def start(self, connections: set[Any]) -> None:
        """Begin to look for replicas, and to keep time over `connections`, the server's set of open ones."""
        self.connections = connections
        self.local_limits.turn(*day_and_month(time.time()))
        if self.shared_limits is not None:
            self._spawn(self.shared_limits.run())
        elif self.seeded_limits is not None:
            self._spawn(self.seeded_limits.run())
        elif self.settings.has_budgets:
            self._tell_of_forgetting()
        if self.ledger is not None:
            self.ledger.start()
            self._spawn(self.ledger.run())
        self._spawn(self._keep_time())
        if self.reloading is not None:
            self._spawn(self.reloading.watch())
        self._spawn(StallWatch(self.pipeline.running, self.on_stall).run())
        self.membership.follow()
        if self.keys is not None:
            self.keys.begin()
            self._spawn(self.keys.follow())
        if self.tokens is not None:
            self._spawn(self.tokens.follow())

    async def stop(self) -> None:
        """End the tasks and the connections to engines."""
        if self.shared_limits is not None:
            await self.shared_limits.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.ledger is not None:
            await self.ledger.close()
        for replica in self.replicas:
            replica.upstream.close()
        if self.caching.shared is not None:
            await self.caching.shared.close()
        if self.keys is not None:
            await self.keys.close()
        if self.tokens is not None:
            self.tokens.close()
        if self.database is not None:
            self.database.close()

    def change(self, settings: Settings, tuning: Tuning) -> None:
        """Run by other settings from now on; those that are not hot must be the same as before."""
        if settings.log_level != self.settings.log_level:
            logging.getLogger().setLevel(settings.log_level.upper())
        if tuning.sources is not None:
            self.membership.change(tuning.sources)
        self.settings = settings
        self.recorder.writer = self._writer if settings.access_log else None
        for replica in self.replicas:
            replica.upstream.connect_timeout_s = settings.connect_timeout_s
            replica.upstream.idle_s = settings.upstream_idle_s
            replica.upstream.max_connections = settings.max_upstream_connections
            replica.breaker.limits = _breaker_limits(settings)
        self.replicas.rename(settings.model_aliases, settings.group_weights)
        self.caching.change(tuning.cache_limits)
        self.local_limits.change(default_limits(settings))
        self.pipeline.default_max_tokens = settings.default_max_tokens
        pipeline = self.pipeline
        pipeline.auth, pipeline.routing = tuning.auth, tuning.routing
        pipeline.admission.change(tuning.admission_rules)
        pipeline.forward_priority = settings.forward_priority
        pipeline.body_limits, pipeline.relay_limits = tuning.body_limits, tuning.relay_limits
        pipeline.cache = self.caching if settings.cache_max_bytes else None
        for connection in self.connections:
            connection.change(settings)

    async def drained(self) -> None:
        """Return when no request is under way and no client connection is open."""
        while self.pipeline.running or self.connections:
            await asyncio.sleep(0.02)

    # What others ask of it
    def new_request_id(self) -> str:
        return self._ids.next()

    def request_id_of(self, headers: dict[bytes, bytes]) -> str:
        return accepted_request_id(headers.get(b"x-request-id")) or self._ids.next()

    def cors_lines(self, origin: bytes) -> bytes:
        """Header lines that let a browser at `origin` read an answer; none where it may not."""
        return self._cors.get(origin.decode("latin-1")) or self._cors.get("*", b"")

    def readiness(self) -> tuple[bool, str]:
        """Whether requests would be served, and if not, why."""
        if self.pipeline.draining:
            return False, "draining: this gateway is about to stop"
        if self.replicas.ready:
            return True, ""
        reasons = [f"{one.name}: {'leaving' if one.draining else one.why}" for one in self.replicas]
        return False, f"no engine is ready ({'; '.join([*reasons, *self.membership.missing()])})"

    def status(self) -> dict[str, Any]:
        """What operators want to know at a glance."""
        ready, _ = self.readiness()
        return {
            "status": "draining" if self.pipeline.draining else "ok" if ready else "degraded",
            "version": __version__,
            "ready": ready,
            "model_loaded": self.replicas.ready,
            "models": [card["id"] for card in self.replicas.model_cards()],
            "engines": [engine.describe() for engine in self.engines],
            **({"rollout": self.rollout.describe()} if self.rollout is not None else {}),
            "replicas": [
                {
                    "name": replica.name,
                    "group": replica.group,
                    "ready": replica.ready,
                    "draining": replica.draining,
                    "in_flight": replica.in_flight,
                    "load_tokens": replica.load,
                    "breaker": replica.breaker.state.value,
                    "models": list(replica.models),
                    "why": replica.why,
                }
                for replica in self.replicas
            ],
            "cache": self.caching.describe(),
            **({"config": self.reloading.describe()} if self.reloading is not None else {}),
            "queues": [
                {"model": one.model, "running": one.running, "limit": one.limit, "queued": one.queue.size}
                for one in self.pipeline.admission.lines.values()
            ],
            "active_requests": len(self.pipeline.running),
            "total_requests": self.recorder.answered,
            "connections": len(self.connections),
        }

    def _make_replica(self, endpoint: Endpoint) -> Replica:
        key = self.settings.upstream_api_key
        api_key = key.get_secret_value() if key is not None else None
        return make_replica(self.settings, endpoint.name, endpoint.address, api_key, endpoint.group)

    def _watch_replica(self, replica: Replica) -> Coroutine[Any, Any, None]:
        return watch(
            replica,
            interval_s=self.settings.health_interval_s,
            timeout_s=self.settings.health_timeout_s,
            idle_probe_s=self.settings.idle_probe_s,
            on_change=lambda _: self.replicas.refresh(),
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background task failed", exc_info=task.exception())

    async def _keep_time(self) -> None:
        """Everything that has a deadline is looked at a few times a second, so that no request costs a timer."""
        while True:
            date = formatdate(time.time(), usegmt=True).encode()
            self.date_line = b"date: %s\r\n" % date
            self.default_headers = [(b"date", date)]
            now = monotonic()
            self.pipeline.sweep(now)
            for connection in list(self.connections):
                connection.check(now)
            for replica in self.replicas:
                replica.upstream.close_idle()
            self.membership.sweep()
            self.local_limits.turn(*day_and_month(time.time()))
            if self.local_limits.begun and self.shared_limits is None:
                self._tell_of_forgetting()
            self.local_limits.sweep(now)
            await asyncio.sleep(SWEEP_EVERY_S)

    def _tell_of_forgetting(self) -> None:
        """Say once that budgets begin anew with this process."""
        if not self._told_of_forgetting:
            self._told_of_forgetting = True
            log.warning(
                "budgets of tokens a day and a month are in this process's memory, and begin anew with it: redis_url "
                "keeps them, and so does the usage ledger of a database"
            )

    def _watch_figures(self, writer: LogWriter) -> None:
        watch_metric = self.metrics.watch
        watch_metric(metric.ACTIVE, lambda: [((), len(self.pipeline.running))])
        lines = self.pipeline.admission.lines
        watch_metric(metric.QUEUE_DEPTH, lambda: [((one.model,), one.queue.size) for one in lines.values()])
        watch_metric(metric.QUEUE_RUNNING, lambda: [((one.model,), one.running) for one in lines.values()])
        watch_metric(metric.QUEUE_LIMIT, lambda: [((one.model,), one.limit) for one in lines.values()])
        watch_metric(
            metric.QUEUE_REFUSALS,
            lambda: [((one.model, why), n) for one in lines.values() for why, n in one.refused.items()],
        )
        watch_metric(metric.CONNECTIONS, lambda: [((), len(self.connections))])
        watch_metric(metric.REPLICA_READY, lambda: [((r.name,), r.ready) for r in self.replicas])
        watch_metric(metric.REPLICA_IN_FLIGHT, lambda: [((r.name,), r.in_flight) for r in self.replicas])
        watch_metric(metric.REPLICA_LOAD, lambda: [((r.name,), r.load) for r in self.replicas])
        watch_metric(metric.STALLS, lambda: [((r.name,), r.stalls) for r in self.replicas])
        watch_metric(metric.DISCOVERY_ENDPOINTS, lambda: [((s.name,), n) for s, n in self.membership.found()])
        watch_metric(
            metric.DISCOVERY_FAILURES, lambda: [((s.name,), s.outage.failures) for s, _ in self.membership.found()]
        )
        watch_metric(
            metric.BREAKER_STATE,
            lambda: [((r.name, s.value), r.breaker.state is s) for r in self.replicas for s in BreakerState],
        )
        caching, shared = self.caching, self.caching.shared
        watch_metric(metric.CACHE_BYTES, lambda: [((), caching.entries.bytes)])
        watch_metric(metric.CACHE_ENTRIES, lambda: [((), len(caching.entries))])
        watch_metric(metric.CACHE_EVICTIONS, lambda: [((), caching.entries.evictions)])
        watch_metric(metric.CACHE_SHARED_FAILURES, lambda: [((), shared.failures)] if shared is not None else [])
        watch_metric(metric.CONFIG_RELOADS, self._reloads)
        watch_metric(
            metric.CONFIG_LAST_RELOAD_SUCCESSFUL,
            lambda: [((), self.reloading is None or not self.reloading.why)],
        )
        watch_metric(metric.LOG_LINES_DROPPED, lambda: [((), writer.dropped)])
        watch_metric(metric.LIMITS_ENTRIES, lambda: [((), len(self.local_limits))])
        if (counts := self.shared_limits) is not None:
            watch_metric(metric.LIMITS_DEGRADED, lambda: [((), counts.degraded)])
            watch_metric(metric.LIMITS_GATEWAYS, lambda: [((), counts.gateways)])
            watch_metric(metric.LIMITS_MENDED, lambda: [((), counts.mended)])
            watch_metric(metric.SETTLEMENTS_LOST, lambda: [((), counts.corrections.lost)])
        if (seeded := self.seeded_limits) is not None:
            watch_metric(metric.BUDGETS_UNKNOWN, lambda: [((), seeded.unknown)])
        watch_metric(metric.BUILD, lambda: [((__version__,), 1)])
        watch_engines(self.metrics, self.engines)
        if (keys := self.keys) is not None:
            watch_metric(metric.KEYS_DATABASE_UP, lambda: [((), not keys.away)])
            watch_metric(metric.KEYS_KNOWN, lambda: [((), len(keys.known))])
            watch_metric(
                metric.KEY_LOOKUPS,
                lambda: [(("found",), keys.found), (("unknown",), keys.unknown), (("failed",), keys.failed)],
            )
        if self.ledger is not None:
            self._watch_usage(self.ledger)
        if self.tokens is not None and (key_set := self.tokens.key_set) is not None:
            watch_metric(metric.KEY_SET_FAILURES, lambda: [((), key_set.failures)])

    def _reloads(self) -> list[tuple[tuple[str, ...], float]]:
        counts = self.reloading.counts if self.reloading is not None else {}
        return [((result,), count) for result, count in counts.items()]

    def _watch_usage(self, ledger: Ledger) -> None:
        self.metrics.watch(metric.USAGE_WAITING, lambda: [((), ledger.spool.waiting_bytes)])
        self.metrics.watch(metric.USAGE_DROPPED, lambda: [((), ledger.dropped)])
        self.metrics.watch(
            metric.USAGE_FAILURES,
            lambda: [(("spool",), ledger.failed_to_keep), (("database",), ledger.failed_to_upload)],
        )


class GatewayServer(uvicorn.Server):
    """uvicorn's server with our way of ending.

    First SIGTERM or SIGINT: readiness says 503 at once; after `drain_delay_s` no connection is accepted; what runs may
    finish for `drain_timeout_s`, then gets an error. A second signal skips the waiting.
    """

    def __init__(self, gateway: Gateway) -> None:
        settings = gateway.settings
        super().__init__(
            uvicorn.Config(
                make_app(gateway),
                http=partial(ClientConnection, gateway),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=settings.tls_cert_file,
                ssl_keyfile=settings.tls_key_file,
                backlog=4096,
            )
        )
        self._gateway = gateway
        self._ending = Ending()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._ending.on_signal(sig, frame)

    def stop(self) -> None:
        """Begin to end, as a signal does."""
        self._ending.begun.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending.enter()
        self._gateway.start(self.server_state.connections)
        await super().serve(sockets)

    async def main_loop(self) -> None:
        await self._ending.begun.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        gateway, settings = self._gateway, self._gateway.settings
        gateway.pipeline.draining = True
        log.info("draining", extra={"running": len(gateway.pipeline.running)})
        await self._ending.unless_hurried(asyncio.sleep(settings.drain_delay_s))
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await self._ending.unless_hurried(asyncio.wait_for(gateway.drained(), settings.drain_timeout_s))
        if gateway.pipeline.running:
            log.warning("drain time is over", extra={"cut_off": len(gateway.pipeline.running)})
            gateway.pipeline.cut_off(monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gateway.drained(), FLUSH_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await gateway.stop()


def _shared_entries(settings: Settings) -> SharedEntries | None:
    if not settings.cache_shared or settings.redis_url is None:
        return None
    return SharedEntries(settings.redis_url.get_secret_value(), settings.redis_timeout_s)


def make_admission(rules: AdmissionRules, replicas: ReplicaPool) -> Admission:
    """The queues for the replicas' models."""
    return Admission(
        rules,
        capacity=replicas.capacity,
        promise=lambda: asyncio.get_running_loop().create_future(),
        random=random.random,
    )


def default_limits(settings: Settings) -> Defaults:
    """What the settings allow those that have no limits of their own."""
    keys = (settings.key_limits, settings.tenant_limits, settings.address_limits, settings.global_limits)
    return Defaults(*(KeyLimits(**limits) if limits else UNLIMITED for limits in keys))


def shared_limits(settings: Settings, local: Limits) -> SharedLimits | None:
    """Limits over counts that gateways share, where the settings say so."""
    if settings.redis_url is None:
        return None
    return SharedLimits(local, settings.redis_url.get_secret_value(), settings.redis_timeout_s)


def seeded_limits(
    settings: Settings, local: Limits, ledger: Ledger | None, database: Database | None
) -> SeededLimits | None:
    """Limits whose budgets go on from the usage ledger, where there is one and nothing else keeps them."""
    if settings.redis_url is not None or ledger is None or database is None:
        return None
    return SeededLimits(local, ledger, database)


def day_and_month(wall: float) -> tuple[int, int]:
    """The day and the month of a wall-clock time, UTC, as 20261231 and 202612."""
    utc = time.gmtime(wall)
    month = utc.tm_year * 100 + utc.tm_mon
    return month * 100 + utc.tm_mday, month


def make_replica(
    settings: Settings, name: str, address: Address, api_key: str | None = None, group: str = DEFAULT_GROUP
) -> Replica:
    """A replica at an address, with connections as the settings say."""
    pool = UpstreamPool(
        address,
        connect_timeout_s=settings.connect_timeout_s,
        idle_s=settings.upstream_idle_s,
        max_connections=settings.max_upstream_connections,
    )
    breaker = Breaker(_breaker_limits(settings))
    concurrency = settings.engine_concurrency or settings.max_num_seqs or ENGINE_CONCURRENCY
    return Replica(name, pool, api_key, group, concurrency, breaker=breaker, progress=Progress(settings.engine_stall_s))


def _breaker_limits(settings: Settings) -> BreakerLimits:
    return BreakerLimits(
        consecutive=settings.breaker_failures, ratio=settings.breaker_ratio, pause_s=settings.breaker_pause_s
    )


def _cors_lines(origin: str) -> bytes:
    lines = f"access-control-allow-origin: {origin}\r\nvary: origin\r\n".encode()
    return lines + b"access-control-expose-headers: %s\r\n" % EXPOSED_HEADERS
