"""Settings → a wired gateway; and its life: start, serve, drain, stop. The one place where the parts meet."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
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
from forebay.gateway.pipeline import Pipeline
from forebay.gateway.sending import RelayLimits
from forebay.gateway.server import ClientConnection
from forebay.gateway.stalls import OnStall, StallWatch
from forebay.policy.admission import Admission
from forebay.policy.auth import ANONYMOUS, Authenticator, KeyLimits, fixed_keys
from forebay.policy.breaker import Breaker, BreakerLimits, BreakerState
from forebay.policy.progress import Progress
from forebay.policy.routing import DEFAULT_GROUP, Routing
from forebay.replicas.discovery.dns import DnsSource
from forebay.replicas.discovery.kubernetes import KubernetesSource
from forebay.replicas.discovery.source import Endpoint, Source
from forebay.replicas.discovery.static import StaticSource
from forebay.replicas.membership import Membership
from forebay.replicas.monitor import watch
from forebay.replicas.pool import ReplicaPool
from forebay.replicas.replica import Replica
from forebay.store.audit import AuditLog
from forebay.store.database import Database
from forebay.store.directory import KeyDirectory
from forebay.store.ledger import Ledger, open_ledger
from forebay.store.tokens import Tokens
from forebay.telemetry import catalogue as metric
from forebay.telemetry.engines import EngineView, watch_engines
from forebay.telemetry.logging import LogWriter
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.recorder import Recorder
from forebay.upstream.pool import Address, UpstreamPool
from forebay.wire.body import BodyLimits
from forebay.wire.headers import RequestIds, accepted_request_id

log = logging.getLogger("forebay.gateway")

SWEEP_EVERY_S = 0.25
FLUSH_S = 1.0
EXPOSED_HEADERS = b"x-request-id, request-id, retry-after"


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
        self.database = database
        self.audit = AuditLog(database)
        default = KeyLimits(requests_per_minute=settings.default_rate)
        self.keys = KeyDirectory(database, settings.key_cache_size, default) if database is not None else None
        self.tokens = Tokens(settings, default) if settings.uses_tokens else None
        self.pipeline = Pipeline(
            make_authenticator(settings, default, self.keys, self.tokens),
            Admission(settings.max_active_requests),
            self.replicas,
            Routing(settings.routing),
            self.recorder,
            body_limits=BodyLimits(
                max_n=settings.max_n,
                max_logprobs=settings.max_logprobs,
                max_stop=settings.max_stop,
                max_json_depth=settings.max_json_depth,
            ),
            relay_limits=RelayLimits(
                request_timeout_s=settings.request_timeout_s,
                first_byte_timeout_s=settings.first_byte_timeout_s,
                stall_timeout_s=settings.stall_timeout_s,
                max_answer_bytes=settings.max_answer_bytes,
                max_event_bytes=settings.max_event_bytes,
                max_attempts=settings.retry_attempts,
                max_takeovers=settings.takeover_attempts,
                takeover_wait_s=settings.takeover_wait_s,
            ),
        )
        self.connections: set[Any] = set()
        self.on_stall: OnStall = lambda replica, why: None  # who owns the engine may set it before `start`
        self.date_line = b""
        self.default_headers: list[tuple[bytes, bytes]] = []
        self._ids = RequestIds(os.urandom)
        self._cors: dict[str, bytes] = {origin: _cors_lines(origin) for origin in settings.cors_origins}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch_figures(writer)

    def __repr__(self) -> str:
        return f"<Gateway running={len(self.pipeline.running)} {self.replicas!r}>"

    # Life
    def start(self, connections: set[Any]) -> None:
        """Begin to look for replicas, and to keep time over `connections`, the server's set of open ones."""
        self.connections = connections
        if self.ledger is not None:
            self.ledger.start()
            self._spawn(self.ledger.run())
        self._spawn(self._keep_time())
        self._spawn(StallWatch(self.pipeline.running, self.on_stall).run())
        self.membership.follow()
        if self.keys is not None:
            self.keys.begin()
            self._spawn(self.keys.follow())
        if self.tokens is not None:
            self._spawn(self.tokens.follow())

    async def stop(self) -> None:
        """End the tasks and the connections to engines."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.ledger is not None:
            await self.ledger.close()
        for replica in self.replicas:
            replica.upstream.close()
        if self.keys is not None:
            await self.keys.close()
        if self.tokens is not None:
            self.tokens.close()
        if self.database is not None:
            self.database.close()

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
            await asyncio.sleep(SWEEP_EVERY_S)

    def _watch_figures(self, writer: LogWriter) -> None:
        watch_metric = self.metrics.watch
        watch_metric(metric.ACTIVE, lambda: [((), len(self.pipeline.running))])
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
        watch_metric(metric.LOG_LINES_DROPPED, lambda: [((), writer.dropped)])
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


def discovery_sources(settings: Settings) -> list[Source]:
    """What finds the engines that `upstream` names. Raises ValueError or OSError."""
    static: list[str] = []
    sources: list[Source] = []
    for url in dict.fromkeys(settings.upstream):
        scheme = url.partition("://")[0]
        if scheme in ("dns", "dns+https"):
            sources.append(DnsSource(url, settings.upstream_ca_file, settings.discovery_interval_s))
        elif scheme in ("kubernetes", "kubernetes+https"):
            sources.append(KubernetesSource(url, settings.upstream_ca_file))
        else:
            static.append(url)
    return [*([StaticSource(static, settings.upstream_ca_file)] if static else []), *sources]


def make_authenticator(
    settings: Settings, default: KeyLimits, keys: KeyDirectory | None, tokens: Tokens | None
) -> Authenticator:
    """Who may call, as the settings say; everybody where they ask for no key."""
    fixed = fixed_keys(
        [key.get_secret_value() for key in settings.api_keys],
        [key.get_secret_value() for key in settings.admin_keys],
        settings.key_rates,
        default,
    )
    anonymous = None if settings.asks_for_keys else replace(ANONYMOUS, limits=default)
    return Authenticator(fixed, anonymous=anonymous, keys=keys, tokens=tokens)


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
    limits = BreakerLimits(
        consecutive=settings.breaker_failures, ratio=settings.breaker_ratio, pause_s=settings.breaker_pause_s
    )
    return Replica(name, pool, api_key, group, breaker=Breaker(limits), progress=Progress(settings.engine_stall_s))


def _cors_lines(origin: str) -> bytes:
    lines = f"access-control-allow-origin: {origin}\r\nvary: origin\r\n".encode()
    return lines + b"access-control-expose-headers: %s\r\n" % EXPOSED_HEADERS
