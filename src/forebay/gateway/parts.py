"""Parts of a gateway, made as the settings say."""

import asyncio
import random

from forebay.config.settings import Settings
from forebay.policy.admission import Admission
from forebay.policy.auth import UNLIMITED, KeyLimits
from forebay.policy.breaker import Breaker, BreakerLimits
from forebay.policy.limits import Defaults, Limits
from forebay.policy.line import AdmissionRules
from forebay.policy.progress import Progress
from forebay.policy.routing import DEFAULT_GROUP
from forebay.policy.usage import Tally
from forebay.replicas.pool import ReplicaPool
from forebay.replicas.replica import Replica
from forebay.store.cache_redis import SharedEntries
from forebay.store.database import Database
from forebay.store.ledger import Ledger
from forebay.store.seeded_limits import SeededLimits
from forebay.store.shared_limits import SharedLimits
from forebay.telemetry.logging import LogWriter
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.recent import Recent
from forebay.telemetry.recorder import Recorder
from forebay.telemetry.sampling import AccessSampling
from forebay.telemetry.tenants import TenantFigures
from forebay.telemetry.tracing import Tracing
from forebay.upstream.pool import Address, UpstreamPool

ENGINE_CONCURRENCY = 256  # vLLM's own default on most machines


def make_admission(rules: AdmissionRules, replicas: ReplicaPool) -> Admission:
    """The queues for the replicas' models."""
    return Admission(
        rules,
        capacity=replicas.capacity,
        promise=lambda: asyncio.get_running_loop().create_future(),
        random=random.random,
        standby=replicas.standby,
    )


def make_recorder(
    settings: Settings, metrics: Metrics, writer: LogWriter, tally: Tally | None, tracing: Tracing | None
) -> Recorder:
    """What is told of each exchange."""
    tenants = TenantFigures(settings.max_tenant_series)
    recent = Recent(settings.recent_requests, settings.slow_request_s) if settings.recent_requests else None
    recorder = Recorder(metrics, writer if settings.access_log else None, tally, tenants, tracing, recent)
    recorder.sampling = access_sampling(settings)
    return recorder


def access_sampling(settings: Settings) -> AccessSampling | None:
    """Which requests have their log line, where not all have."""
    if settings.access_log_sample_ratio >= 1:
        return None
    return AccessSampling(settings.access_log_sample_ratio, settings.slow_request_s)


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


def shared_entries(settings: Settings) -> SharedEntries | None:
    """The cached answers that gateways share, where the settings say so."""
    if not settings.cache_shared or settings.redis_url is None:
        return None
    return SharedEntries(settings.redis_url.get_secret_value(), settings.redis_timeout_s)


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
    breaker = Breaker(breaker_limits(settings))
    concurrency = settings.engine_concurrency or settings.max_num_seqs or ENGINE_CONCURRENCY
    return Replica(name, pool, api_key, group, concurrency, breaker=breaker, progress=Progress(settings.engine_stall_s))


def breaker_limits(settings: Settings) -> BreakerLimits:
    """When an engine is left alone."""
    return BreakerLimits(
        consecutive=settings.breaker_failures, ratio=settings.breaker_ratio, pause_s=settings.breaker_pause_s
    )
