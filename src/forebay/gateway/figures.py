"""The figures of a gateway that metrics watch: each is read from where it is kept, at each scrape."""

from math import inf
from typing import TYPE_CHECKING

from forebay import __version__
from forebay.policy.breaker import BreakerState
from forebay.store.directory import KeyDirectory
from forebay.store.ledger import Ledger
from forebay.store.shared_limits import SharedLimits
from forebay.telemetry import catalogue as metric
from forebay.telemetry.engines import watch_engines
from forebay.telemetry.logging import LogWriter
from forebay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway


def watch_figures(gateway: "Gateway", writer: LogWriter) -> None:
    """Have the gateway's metrics read what they cannot be told as it happens."""
    metrics = gateway.metrics
    _watch_traffic(gateway)
    _watch_tenants(gateway)
    _watch_replicas(gateway)
    _watch_cache(gateway)
    metrics.watch(metric.CONFIG_RELOADS, lambda: _reloads(gateway))
    metrics.watch(
        metric.CONFIG_LAST_RELOAD_SUCCESSFUL,
        lambda: [((), gateway.reloading is None or not gateway.reloading.why)],
    )
    metrics.watch(metric.BACKGROUND_FAILURES, lambda: [((task,), n) for task, n in gateway.background.failures.items()])
    metrics.watch(metric.LOG_LINES_DROPPED, lambda: [((), writer.dropped)])
    if (tracing := gateway.tracing) is not None:
        metrics.watch(metric.TRACE_SPANS, lambda: [((result,), n) for result, n in tracing.sink.counts.items()])
    metrics.watch(metric.LIMITS_ENTRIES, lambda: [((), len(gateway.local_limits))])
    if gateway.shared_limits is not None:
        _watch_shared_limits(metrics, gateway.shared_limits)
    if (seeded := gateway.seeded_limits) is not None:
        metrics.watch(metric.BUDGETS_UNKNOWN, lambda: [((), seeded.unknown)])
    metrics.watch(metric.BUILD, lambda: [((__version__,), 1)])
    watch_engines(metrics, gateway.engines)
    gateway.gpus.show_in(metrics)
    if (certificate := gateway.certificate) is not None:
        metrics.watch(
            metric.CERTIFICATE_EXPIRY,
            lambda: [((), certificate.expires_at)] if certificate.expires_at is not None else [],
        )
    if gateway.keys is not None:
        _watch_keys(metrics, gateway.keys)
    if gateway.ledger is not None:
        _watch_usage(metrics, gateway.ledger)
    if (batching := gateway.batching) is not None:
        metrics.watch(metric.BATCHES, lambda: [((), len(batching.runs))])
        metrics.watch(
            metric.BATCH_LINES, lambda: [(("answered" if ok else "failed",), n) for ok, n in batching.counted.items()]
        )
    if gateway.tokens is not None and (key_set := gateway.tokens.key_set) is not None:
        metrics.watch(metric.KEY_SET_FAILURES, lambda: [((), key_set.failures)])


def _watch_traffic(gateway: "Gateway") -> None:
    watch, lines = gateway.metrics.watch, gateway.pipeline.admission.lines
    watch(metric.ACTIVE, lambda: [((), len(gateway.pipeline.running))])
    watch(metric.QUEUE_DEPTH, lambda: [((one.model,), one.queue.size) for one in lines.values()])
    watch(metric.QUEUE_RUNNING, lambda: [((one.model,), one.running) for one in lines.values()])
    watch(metric.QUEUE_LIMIT, lambda: [((one.model,), one.limit) for one in lines.values()])
    watch(metric.PREFILL_TOKENS, lambda: [((one.model,), one.prefill.unread) for one in lines.values()])
    watch(
        metric.PREFILL_LIMIT_TOKENS,
        lambda: [((one.model,), one.prefill.most) for one in lines.values() if one.prefill.most < inf],
    )
    watch(
        metric.QUEUE_REFUSALS,
        lambda: [((one.model, why), n) for one in lines.values() for why, n in one.refused.items()],
    )
    watch(metric.HELD_BYTES, lambda: [((), gateway.room.bytes)])
    watch(metric.HELD_MOST_BYTES, lambda: [((), gateway.room.most_bytes)])
    watch(metric.CONNECTIONS, lambda: [((), len(gateway.connections))])


def _watch_tenants(gateway: "Gateway") -> None:
    watch, tenants, lines = gateway.metrics.watch, gateway.recorder.tenants, gateway.pipeline.admission.lines
    watch(metric.TENANT_REQUESTS, lambda: [((name,), one.requests) for name, one in tenants.all()])
    watch(metric.TENANT_REFUSALS, lambda: [((name,), one.refusals) for name, one in tenants.all()])
    watch(
        metric.TENANT_TOKENS,
        lambda: [
            ((name, direction), tokens)
            for name, one in tenants.all()
            for direction, tokens in (("in", one.prompt_tokens), ("out", one.tokens))
        ],
    )
    watch(
        metric.TENANT_QUEUE,
        lambda: [
            ((name,), number)
            for name, number in tenants.of_waiting(
                pair for line in lines.values() for pair in line.queue.waiting()
            ).items()
        ],
    )


def _watch_replicas(gateway: "Gateway") -> None:
    watch, replicas, membership = gateway.metrics.watch, gateway.replicas, gateway.membership
    watch(metric.REPLICA_READY, lambda: [((r.name,), r.ready) for r in replicas])
    watch(metric.REPLICA_IN_FLIGHT, lambda: [((r.name,), r.in_flight) for r in replicas])
    watch(metric.REPLICA_LOAD, lambda: [((r.name,), r.load) for r in replicas])
    watch(metric.UNREAD_METRICS, lambda: [((r.name,), r.metrics_failures) for r in replicas])
    watch(metric.STALLS, lambda: [((r.name,), r.stalls) for r in replicas])
    watch(metric.DISCOVERY_ENDPOINTS, lambda: [((s.name,), n) for s, n in membership.found()])
    watch(metric.DISCOVERY_FAILURES, lambda: [((s.name,), s.outage.failures) for s, _ in membership.found()])
    watch(
        metric.BREAKER_STATE,
        lambda: [((r.name, s.value), r.breaker.state is s) for r in replicas for s in BreakerState],
    )


def _watch_cache(gateway: "Gateway") -> None:
    watch, caching, shared = gateway.metrics.watch, gateway.caching, gateway.caching.shared
    watch(metric.CACHE_BYTES, lambda: [((), caching.entries.bytes)])
    watch(metric.CACHE_ENTRIES, lambda: [((), len(caching.entries))])
    watch(metric.CACHE_EVICTIONS, lambda: [((), caching.entries.evictions)])
    watch(metric.CACHE_SHARED_FAILURES, lambda: [((), shared.failures)] if shared is not None else [])


def _reloads(gateway: "Gateway") -> list[tuple[tuple[str, ...], float]]:
    counts = gateway.reloading.counts if gateway.reloading is not None else {}
    return [((result,), count) for result, count in counts.items()]


def _watch_shared_limits(metrics: Metrics, counts: SharedLimits) -> None:
    metrics.watch(metric.LIMITS_DEGRADED, lambda: [((), counts.degraded)])
    metrics.watch(metric.LIMITS_GATEWAYS, lambda: [((), counts.gateways)])
    metrics.watch(metric.LIMITS_MENDED, lambda: [((), counts.mended)])
    metrics.watch(metric.SETTLEMENTS_LOST, lambda: [((), counts.corrections.lost)])


def _watch_keys(metrics: Metrics, keys: KeyDirectory) -> None:
    metrics.watch(metric.KEYS_DATABASE_UP, lambda: [((), not keys.away)])
    metrics.watch(metric.KEY_EXPIRY, lambda: [((), keys.next_expiry)] if keys.next_expiry is not None else [])
    metrics.watch(metric.KEYS_KNOWN, lambda: [((), len(keys.known))])
    metrics.watch(
        metric.KEY_LOOKUPS,
        lambda: [(("found",), keys.found), (("unknown",), keys.unknown), (("failed",), keys.failed)],
    )


def _watch_usage(metrics: Metrics, ledger: Ledger) -> None:
    metrics.watch(metric.USAGE_WAITING, lambda: [((), ledger.spool.waiting_bytes)])
    metrics.watch(metric.USAGE_DROPPED, lambda: [((), ledger.dropped)])
    metrics.watch(
        metric.USAGE_FAILURES,
        lambda: [(("spool",), ledger.failed_to_keep), (("database",), ledger.failed_to_upload)],
    )
