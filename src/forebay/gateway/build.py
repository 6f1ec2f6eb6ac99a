"""Settings → a wired gateway; and its life: start, change, drain, stop. The one place where the parts meet."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from forebay.background import Background
from forebay.config.settings import Settings
from forebay.descriptors import most_callers
from forebay.gateway.batching import Batching
from forebay.gateway.caching import Caching
from forebay.gateway.certificate import Certificate
from forebay.gateway.cors import lines_by_origin
from forebay.gateway.engine_metrics import EngineMetrics
from forebay.gateway.figures import watch_figures
from forebay.gateway.parts import (
    access_sampling,
    breaker_limits,
    default_limits,
    make_admission,
    make_recorder,
    make_replica,
    seeded_limits,
    shared_entries,
    shared_limits,
)
from forebay.gateway.pipeline import Pipeline
from forebay.gateway.reloading import Reloading
from forebay.gateway.resolving import Resolving
from forebay.gateway.spare import SpareConnections
from forebay.gateway.stalls import OnStall, StallWatch
from forebay.gateway.status import readiness_of, status_of
from forebay.gateway.timekeeping import day_and_month, keep_time
from forebay.gateway.tuning import Tuning
from forebay.listening import find_the_gone
from forebay.outbox import Outbox
from forebay.policy.attempts import Attempts
from forebay.policy.auth import KeyLimits
from forebay.policy.limits import Limits
from forebay.replicas.discovery.source import Endpoint, Source
from forebay.replicas.membership import Membership
from forebay.replicas.monitor import watch
from forebay.replicas.pool import ReplicaPool
from forebay.replicas.replica import Replica
from forebay.room import Room, default_room
from forebay.store.audit import AuditLog
from forebay.store.database import Database
from forebay.store.directory import KeyDirectory
from forebay.store.ledger import open_ledger
from forebay.store.tokens import Tokens
from forebay.store.turns import Turns
from forebay.telemetry import catalogue as metric
from forebay.telemetry.engines import EngineView
from forebay.telemetry.gpu import GpuWatch
from forebay.telemetry.lag import watch_lag
from forebay.telemetry.logging import LogWriter
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.redaction import secrets_of
from forebay.telemetry.tracing import open_tracing
from forebay.wire.forwarded import Proxies
from forebay.wire.headers import RequestIds, accepted_request_id

log = logging.getLogger("forebay.gateway")


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
        self.room = Room(settings.max_held_bytes or default_room())
        self.ledger = open_ledger(settings, database) if database is not None and settings.keeps_usage else None
        tally = self.ledger.tally if self.ledger is not None else None
        self.tracing = open_tracing(settings)
        self.recorder = make_recorder(settings, self.metrics, writer, tally, self.tracing)
        self.replicas = ReplicaPool(replicas, settings.model_aliases, settings.group_weights, settings.standby_models)
        self.background = Background()
        self.membership = Membership(
            self.replicas, sources, make=self._make_replica, watch=self._watch_replica, spawn=self.background.start
        )
        self.engines: list[EngineView] = []
        self.rollout: RolloutView | None = None  # set by who owns engines
        self.reloading: Reloading | None = None  # set by who can load the settings again
        self.database = database
        self.audit = AuditLog(database)
        default = KeyLimits(requests_per_minute=settings.default_rate)
        self.attempts = Attempts(settings.failed_keys_per_minute)
        self.keys = None
        if database is not None:
            self.keys = KeyDirectory(database, settings.key_cache_size, default, self.attempts)
        self.tokens = Tokens(settings, default, self.keys) if settings.uses_tokens else None
        self.turns = Turns(database, lambda: self.settings) if database is not None else None
        tuning = Tuning.of(settings, keys=self.keys, tokens=self.tokens, attempts=self.attempts)
        self.caching = Caching(tuning.cache_limits, shared_entries(settings))
        self.local_limits = Limits(default_limits(settings))
        self.shared_limits = shared_limits(settings, self.local_limits)
        self.seeded_limits = seeded_limits(settings, self.local_limits, self.ledger, database)
        resolving = Resolving(
            self.replicas, tuning.body_limits, tuning.presets, tuning.salts, settings.default_max_tokens
        )
        self.pipeline = Pipeline(
            tuning.auth,
            self.shared_limits or self.seeded_limits or self.local_limits,
            make_admission(tuning.admission_rules, self.replicas),
            self.replicas,
            tuning.routing,
            self.recorder,
            resolving=resolving,
            relay_limits=tuning.relay_limits,
            cache=self.caching if settings.cache_max_bytes else None,
            most_compiling=tuning.most_compiling,
            tracing=self.tracing,
            room=self.room,
            forward_priority=settings.forward_priority,
        )
        self.batching = Batching(settings, database, self.pipeline, default) if database is not None else None
        self.engine_metrics = EngineMetrics(self)
        self.gpus = GpuWatch(settings.gpu_interval_s)
        self.certificate: Certificate | None = None
        if settings.tls_cert_file is not None and settings.tls_key_file is not None:
            self.certificate = Certificate(settings.tls_cert_file, settings.tls_key_file)
        self.connections: set[Any] = set()
        self.watchers: set[Any] = set()  # connections to the metrics port
        self.listening: list[socket.socket] = []  # for callers
        self.most_callers = most_callers()
        self.spare = SpareConnections()
        self.proxies = Proxies(settings.trusted_proxies)
        self.outbox = Outbox()  # of all client connections
        self.on_stall: OnStall = lambda replica, why: None  # who owns the engine may set it before `start`
        self.date_line = b""
        self.default_headers: list[tuple[bytes, bytes]] = []
        self._ids = RequestIds(os.urandom)
        self._cors = lines_by_origin(settings.cors_origins)
        self._told_of_forgetting = False
        self._writer = writer
        watch_figures(self, writer)

    def __repr__(self) -> str:
        return f"<Gateway running={len(self.pipeline.running)} {self.replicas!r}>"

    # Life
    def start(self, connections: set[Any]) -> None:
        """Begin to look for replicas, and to keep time over `connections`, the server's set of open ones."""
        self.connections = connections
        run, loop = self.background.start, asyncio.get_running_loop()
        self.metrics.watch(metric.TASKS, lambda: [((), len(asyncio.all_tasks(loop)))])
        self.local_limits.turn(*day_and_month(time.time()))
        if self.shared_limits is not None:
            run("shared limits", self.shared_limits.run)
        elif self.seeded_limits is not None:
            run("budgets", self.seeded_limits.run)
        elif self.settings.has_budgets:
            self.tell_of_forgetting()
        if self.ledger is not None:
            self.ledger.start()
            run("usage ledger", self.ledger.run)
        run("time", partial(keep_time, self))
        run("loop lag", partial(watch_lag, self.metrics))
        self.gpus.start()
        if self.reloading is not None:
            run("settings file", self.reloading.watch)
        if self.certificate is not None:
            run("certificate", self.certificate.watch)
        run("stalls", StallWatch(self.pipeline.running, self.on_stall).run)
        self.membership.follow()
        if self.keys is not None:
            self.keys.begin()
            run("keys", self.keys.follow)
        if self.tokens is not None:
            run("token key set", self.tokens.follow)
        if self.turns is not None:
            run("conversations", self.turns.run)
        if self.batching is not None and self.settings.batch_concurrency:
            run("batches", self.batching.run)

    async def stop(self) -> None:
        """End the tasks and the connections to engines."""
        self.gpus.stop()
        if self.batching is not None:
            await self.batching.close()
        if self.shared_limits is not None:
            await self.shared_limits.close()
        await self.background.stop()
        if self.ledger is not None:
            await self.ledger.close()
        for replica in self.replicas:
            replica.upstream.close()
        self.pipeline.close()
        if self.caching.shared is not None:
            await self.caching.shared.close()
        if self.keys is not None:
            await self.keys.close()
        if self.tokens is not None:
            self.tokens.close()
        if self.turns is not None:
            await self.turns.close()
        if self.database is not None:
            self.database.close()
        if self.tracing is not None:
            await self.tracing.sink.close()

    def change(self, settings: Settings, tuning: Tuning) -> None:
        """Run by other settings from now on; those that are not hot must be the same as before."""
        if settings.log_level != self.settings.log_level:
            logging.getLogger().setLevel(settings.log_level.upper())
        if tuning.sources is not None:
            self.membership.change(tuning.sources)
        self.settings = settings
        self._writer.redactor.learn(secrets_of(settings))
        self.recorder.sampling = access_sampling(settings)
        self.recorder.writer = self._writer if settings.access_log else None
        if self.tracing is not None:
            self.tracing.ratio = settings.trace_sample_ratio
        if self.recorder.recent is not None:
            self.recorder.recent.slow_s = settings.slow_request_s
        for replica in self.replicas:
            replica.upstream.connect_timeout_s = settings.connect_timeout_s
            replica.upstream.idle_s = settings.upstream_idle_s
            replica.upstream.max_connections = settings.max_upstream_connections
            replica.breaker.limits = breaker_limits(settings)
        self.replicas.rename(settings.model_aliases, settings.group_weights)
        self.caching.change(tuning.cache_limits)
        self.local_limits.change(default_limits(settings))
        self.room.most_bytes = settings.max_held_bytes or default_room()
        pipeline, resolving = self.pipeline, self.pipeline.resolving
        pipeline.auth, pipeline.routing = tuning.auth, tuning.routing
        pipeline.admission.change(tuning.admission_rules)
        pipeline.forward_priority = settings.forward_priority
        pipeline.relay_limits = tuning.relay_limits
        pipeline.cache = self.caching if settings.cache_max_bytes else None
        pipeline.compiling.most = tuning.most_compiling
        resolving.body_limits, resolving.default_max_tokens = tuning.body_limits, settings.default_max_tokens
        resolving.presets, resolving.salts = tuning.presets, tuning.salts
        for sock in self.listening:
            find_the_gone(sock, settings.write_timeout_s)
        for connection in (*self.connections, *self.watchers):
            connection.change(settings)

    async def drained(self) -> None:
        """Return when no request is under way and no client connection is open."""
        while self.pipeline.running or self.connections:
            await asyncio.sleep(0.02)

    # What others ask of it
    def tell_of_forgetting(self) -> None:
        """Say once that budgets begin anew with this process."""
        if not self._told_of_forgetting:
            self._told_of_forgetting = True
            log.warning(
                "budgets of tokens a day and a month are in this process's memory, and begin anew with it: redis_url "
                "keeps them, and so does the usage ledger of a database"
            )

    def new_request_id(self) -> str:
        return self._ids.next()

    def request_id_of(self, headers: dict[bytes, bytes]) -> str:
        return accepted_request_id(headers.get(b"x-request-id")) or self._ids.next()

    def cors_lines(self, origin: bytes) -> bytes:
        """Header lines that let a browser at `origin` read an answer; none where it may not."""
        return self._cors.get(origin.decode("latin-1")) or self._cors.get("*", b"")

    def readiness(self) -> tuple[bool, str]:
        """Whether requests would be served, and if not, why."""
        return readiness_of(self)

    def status(self) -> dict[str, Any]:
        """What operators want to know at a glance."""
        return status_of(self)

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
