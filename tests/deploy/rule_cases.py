"""For every alert: figures that are well, then ill, then well again; and figures that are nearly ill.

A gauge's numbers are its value, a counter's what it grows by in a second.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain

from forebay.monitoring.rules import SERVICE
from forebay.monitoring.slo import BURNS, OBJECTIVES, Burn, Objective

JOB = {"job": SERVICE}
GATEWAY = {**JOB, "instance": "gw:8000"}
REPLICA = {**GATEWAY, "replica": "http://engine:8000"}
ENGINE = {**GATEWAY, "engine": "engine-0"}
GPU = {**GATEWAY, "gpu": "0"}
TENANT = {**JOB, "tenant": "acme"}
MODEL = {**GATEWAY, "model": "m"}
DAY_S = 86_400


@dataclass(frozen=True)
class Figure:
    """One series. `nearly` is what must not make the alert fire; the same as `well` where it is not said."""

    name: str
    labels: dict[str, str]
    well: float
    ill: float
    nearly: float | None = None
    counter: bool = False

    def line(self, phases: list[tuple[float, float]], step_s: float) -> dict[str, str]:
        """As promtool takes it; phases are seconds and a value."""
        each = chain.from_iterable([value] * int(seconds / step_s) for seconds, value in phases)
        values = accumulate(value * step_s for value in each) if self.counter else each
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return {"series": f"{self.name}{{{labels}}}", "values": " ".join(f"{value:g}" for value in values)}


@dataclass(frozen=True)
class Case:
    """Well for `well_s`, ill for `ill_s` in which it must fire by `by_s`, and well for `calm_s`, by whose end it must
    have ceased."""

    alert: str
    labels: dict[str, str]
    figures: list[Figure]
    by_s: float = 60
    ill_s: float = 60
    calm_s: float = 120
    well_s: float = 120
    step_s: float = 5
    chosen: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join((self.alert, *self.chosen.values()))


def gauge(name: str, labels: dict[str, str], well: float, ill: float, nearly: float | None = None) -> Figure:
    return Figure(name, labels, well, ill, nearly)


def counter(name: str, labels: dict[str, str], well: float, ill: float, nearly: float | None = None) -> Figure:
    return Figure(name, labels, well, ill, nearly, counter=True)


def once(alert: str, labels: dict[str, str], name: str, forget_s: float = 300) -> Case:
    """A counter that rises by one, once, is told within a scrape and forgotten after a while."""
    return Case(alert, labels, [counter(name, labels, 0, 0.2)], by_s=5, ill_s=5, calm_s=forget_s + 30)


ALL_REQUESTS = counter("forebay_requests_total", {**MODEL, "endpoint": "chat", "status": "200"}, 10, 10, 10)


def errors(code: str, ill: float, nearly: float) -> Figure:
    return counter("forebay_errors_total", {**GATEWAY, "endpoint": "chat", "code": code}, 0, ill, nearly)


def buckets(name: str, labels: dict[str, str], bound: str, well: float, ill: float, nearly: float) -> Iterator[Figure]:
    """A histogram of ten a second, so many of them between a bound and its double."""
    for le, off in ((bound, 1.0), (str(2 * float(bound)), 0.0), ("+Inf", 0.0)):
        rates = [10 - beyond * off for beyond in (well, ill, nearly)]
        yield counter(f"{name}_bucket", {**labels, "le": le}, *rates)


def queue(waiting: float, running: float) -> list[Figure]:
    return [
        gauge("forebay_queue_requests", MODEL, 0, waiting, 3),
        gauge("forebay_queue_running", MODEL, 1, running, 4),
        gauge("forebay_queue_limit", MODEL, 4, 4, 4),
    ]


def gpu(name: str, well: float, ill: float, nearly: float) -> Figure:
    return gauge(f"forebay_gpu_{name}", {**GPU, "name": "H200"}, well, ill, nearly)


def tenant(name: str, ill: float, nearly: float) -> Figure:
    return counter(f"forebay_tenant_{name}_total", {**GATEWAY, **TENANT}, 1 * (name == "requests"), ill, nearly)


CAUSES = [
    Case("GatewayDown", GATEWAY, [gauge("up", GATEWAY, 1, 0)], by_s=15),
    Case("HighErrorRate", JOB, [ALL_REQUESTS, errors("engine_unavailable", 5, 0.4)], by_s=25),
    Case("HighErrorRate", JOB, [ALL_REQUESTS, errors("upstream_timeout", 1, 0.4)], by_s=60, calm_s=180),
    Case("QueueSaturated", MODEL, queue(4, 4), by_s=10),
    Case(
        "QueueSaturated",
        MODEL,
        [*queue(0, 4), counter("forebay_queue_refusals_total", {**MODEL, "reason": "full"}, 0, 2, 0.05)],
        by_s=15,
    ),
    Case(
        "LongQueueWait",
        {**JOB, "model": "m"},
        list(buckets("forebay_queue_wait_seconds", {**MODEL, "endpoint": "chat"}, "5.0", 0, 9, 0.5)),
        ill_s=120,
        by_s=60,
        calm_s=180,
    ),
    Case("LimitsHit", JOB, [ALL_REQUESTS, errors("rate_limit_exceeded", 8, 0.5)], by_s=25),
    Case("LimitsHit", JOB, [ALL_REQUESTS, errors("insufficient_quota", 8, 0.5)], by_s=25),
    Case(
        "TenantFlooding", {**JOB, "tenant": "acme"}, [tenant("requests", 50, 50), tenant("refusals", 45, 20)], by_s=25
    ),
    Case(
        "EventLoopLag",
        GATEWAY,
        list(buckets("forebay_event_loop_lag_seconds", GATEWAY, "0.25", 0, 2, 0.05)),
        by_s=45,
        calm_s=180,
    ),
    Case("NoEngineReady", GATEWAY, [gauge("forebay_replica_ready", REPLICA, 1, 0)], by_s=10),
    Case(
        "EngineDown",
        REPLICA,
        [
            gauge("forebay_replica_ready", REPLICA, 1, 0),
            gauge("forebay_replica_ready", {**REPLICA, "replica": "another"}, 1, 1),
        ],
        by_s=15,
    ),
    *(
        Case(
            "BreakerOpen",
            REPLICA,
            [
                gauge("forebay_breaker_state", {**REPLICA, "state": "closed"}, 1, 0),
                gauge("forebay_breaker_state", {**REPLICA, "state": state}, 0, 1),
            ],
            by_s=10,
        )
        for state in ("open", "half_open")
    ),
    once("EngineStalled", REPLICA, "forebay_replica_stalls_total"),
    Case("EngineCrashLoop", ENGINE, [gauge("forebay_engine_state", {**ENGINE, "state": "failed"}, 0, 1)], by_s=5),
    Case(
        "EngineCrashLoop",
        ENGINE,
        [counter("forebay_engine_restarts_total", ENGINE, 0, 1 / 30, 1 / 90)],
        ill_s=120,
        by_s=120,
        calm_s=700,
    ),
    once("EngineOutOfMemory", ENGINE, "forebay_engine_out_of_memory_total", 600),
    Case(
        "DiscoveryFailing",
        {**GATEWAY, "source": "dns://e:1"},
        [counter("forebay_discovery_failures_total", {**GATEWAY, "source": "dns://e:1"}, 0, 0.2)],
        by_s=45,
    ),
    Case("GPUMemoryFull", GPU, [gpu("memory_used_bytes", 90, 99, 95), gpu("memory_total_bytes", *[100] * 3)], 65, 90),
    Case("GPUHot", GPU, [gpu("temperature_celsius", 60, 90, 84)], 65, 90),
    *(
        Case(
            "GPUFaulty",
            GPU,
            [counter(f"forebay_gpu_{kind}_errors_total", {**GPU, "name": "H200"}, 0, 0.2)],
            by_s=5,
            ill_s=5,
            calm_s=630,
        )
        for kind in ("ecc", "xid")
    ),
    Case("GPUIdleWhileQueued", GPU, [gpu("utilization_ratio", 0.9, 0, 0.3), *queue(2, 4)], 130, 180),
    Case("GPULowUtilisation", GPU, [gpu("utilization_ratio", 0.5, 0.01, 0.2)], by_s=2700, ill_s=2700, calm_s=1800),
    Case("LimitsDegraded", GATEWAY, [gauge("forebay_limits_degraded", GATEWAY, 0, 1)], by_s=15),
    Case("BudgetsUnknown", GATEWAY, [gauge("forebay_limits_budgets_unknown", GATEWAY, 0, 3)], by_s=305, ill_s=330),
    once("LimitCountsLost", GATEWAY, "forebay_limits_mended_total", 600),
    once("LimitCountsLost", GATEWAY, "forebay_limits_settlements_lost_total", 600),
    Case("KeysDatabaseDown", GATEWAY, [gauge("forebay_keys_database_up", GATEWAY, 1, 0)], by_s=15),
    once("KeySetUnreadable", GATEWAY, "forebay_key_set_failures_total"),
    Case(
        "KeyExpiresSoon",
        JOB,
        [gauge("forebay_key_expiry_timestamp_seconds", GATEWAY, 30 * DAY_S, 6 * DAY_S, 8 * DAY_S)],
        by_s=5,
    ),
    Case(
        "CertificateExpiresSoon",
        GATEWAY,
        [gauge("forebay_tls_certificate_expiry_timestamp_seconds", GATEWAY, 90 * DAY_S, 20 * DAY_S, 22 * DAY_S)],
        by_s=5,
    ),
    once("UsageNotWritten", {**GATEWAY, "to": "database"}, "forebay_usage_failures_total"),
    once("UsageDropped", GATEWAY, "forebay_usage_dropped_total", 600),
    Case("SharedCacheFailing", GATEWAY, [counter("forebay_cache_shared_failures_total", GATEWAY, 0, 5, 0.05)], by_s=45),
    Case("ConfigNotFollowed", GATEWAY, [gauge("forebay_config_last_reload_successful", GATEWAY, 1, 0)], by_s=35),
    once("LogLinesDropped", GATEWAY, "forebay_log_lines_dropped_total"),
    once("BackgroundTaskFailing", {**GATEWAY, "task": "time"}, "forebay_background_failures_total"),
]


def requests_as_promised(one: Objective, ill: float, nearly: float) -> Iterator[Figure]:
    """A hundred a second, of which such shares are not as promised."""
    shares = (0.0, ill, nearly)
    if one.within_s is None:
        yield counter("forebay_requests_total", {**MODEL, "endpoint": "chat", "status": "200"}, 100, 100, 100)
        yield counter(
            "forebay_errors_total",
            {**GATEWAY, "endpoint": "chat", "code": "engine_error"},
            *(100 * share for share in shares),
        )
    else:
        labels = {**MODEL, "endpoint": "chat"}
        good = [100 * (1 - share) for share in shares]
        yield counter(f"{one.metric.name}_bucket", {**labels, "le": one.bound}, *good)
        yield counter(f"{one.metric.name}_count", labels, 100, 100, 100)


def burn_case(one: Objective, burn: Burn) -> Case:
    """Twice the rate that is too fast; and half of it, which is not."""
    rate, quick = burn.factor * one.budget, burn.long == "1h"
    return Case(
        f"{one.title}BudgetBurn",
        JOB,
        list(requests_as_promised(one, 2 * rate, rate / 2)),
        well_s=3600,
        by_s=3600 if quick else 21_600,
        ill_s=3600 if quick else 21_600,
        calm_s={"5m": 600, "30m": 3600, "6h": 25_200}[burn.short],
        step_s=60 if quick else 300,
        chosen={"slo": one.name, "window": burn.long},
    )


BURNING = [burn_case(one, burn) for one in OBJECTIVES for burn in BURNS]
