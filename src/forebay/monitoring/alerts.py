"""Alerts on causes: what is broken, so that within half a minute whoever looks knows where to.

`lasts` is short where somebody is woken: with a scrape and an evaluation every 5 s, an engine that dies is told in
20 s.
Rates are over a minute, which takes a scrape every 15 s or more often.
"""

from forebay.monitoring import elsewhere as other
from forebay.monitoring.promql import LIMIT_ERRORS, SERVER_ERRORS, Lens
from forebay.monitoring.rules import SERVICE, Alert
from forebay.monitoring.slo import burn_alerts
from forebay.telemetry import catalogue as m

DAY_S = 86_400
NOW = Lens("1m")
JOB, GATEWAY = ("job",), ("job", "instance")
OF_REPLICA = (*GATEWAY, "replica")
OF_ENGINE = (*GATEWAY, "engine")
OF_MODEL = (*GATEWAY, "model")
OF_GPU = (*GATEWAY, "gpu")

_errors = NOW.rate(m.ERRORS, SERVER_ERRORS, by=JOB)
_limited = NOW.rate(m.ERRORS, LIMIT_ERRORS, by=JOB)
_requests = NOW.rate(m.REQUESTS, by=JOB)
_refused = NOW.rate(m.TENANT_REFUSALS, by=(*JOB, "tenant"))
_asked = NOW.rate(m.TENANT_REQUESTS, by=(*JOB, "tenant"))
_waiting = NOW.total(m.QUEUE_DEPTH, by=OF_MODEL)
_limit = NOW.total(m.QUEUE_LIMIT, by=OF_MODEL)
_running = NOW.total(m.QUEUE_RUNNING, by=OF_MODEL)
_given_up = NOW.total(m.ENGINE_STATE, 'state="failed"', by=OF_ENGINE)
_gpu_memory = f"{NOW.total(m.GPU_MEMORY_USED, by=OF_GPU)} / {NOW.total(m.GPU_MEMORY_TOTAL, by=OF_GPU)}"
_gpu_busy = f"avg by (job, instance, gpu) (avg_over_time({m.GPU_UTILIZATION.name}[{{}}]))"

TRAFFIC = (
    Alert(
        "GatewayDown",
        "critical",
        "10s",
        NOW.total(other.UP, f'job="{SERVICE}"', by=GATEWAY) + " == 0",
        "Gateway {{ $labels.instance }} cannot be scraped",
        "Its /metrics has not answered for 10 s: the process is gone, hangs, or cannot be reached.",
    ),
    Alert(
        "HighErrorRate",
        "critical",
        "5s",
        f"{_errors} / {_requests} > 0.05 and {_errors} > 0.05",
        "{{ $value | humanizePercentage }} of requests fail",
        "More than 5% of the requests of the last minute ended in a server error, cut streams included.",
    ),
    Alert(
        "QueueSaturated",
        "critical",
        "5s",
        f"({_waiting} >= {_limit} and {_running} >= {_limit} and {_limit} > 0) or "
        f"{NOW.rate(m.QUEUE_REFUSALS, by=OF_MODEL)} > 0.1",
        "The queue for {{ $labels.model }} is saturated at {{ $labels.instance }}",
        "As many requests wait as the engines can have at once, or some are turned away: too long a line, or too late.",
    ),
    Alert(
        "LongQueueWait",
        "warning",
        "30s",
        f"{NOW.quantile(0.9, m.QUEUE_WAIT, by=(*JOB, 'model'))} > 5",
        "Requests for {{ $labels.model }} wait {{ $value | humanizeDuration }} for an engine",
        "One in ten of those that had to wait in the last minute waited longer than 5 s.",
    ),
    Alert(
        "LimitsHit",
        "warning",
        "5s",
        f"{_limited} / {_requests} > 0.1 and {_limited} > 0.5",
        "{{ $value | humanizePercentage }} of requests are refused by limits",
        "More than a tenth of the last minute's requests were over a limit of a key, a tenant, an address or all.",
    ),
    Alert(
        "TenantFlooding",
        "warning",
        "5s",
        f"{_refused} / {_asked} > 0.5 and {_refused} > 1",
        "Tenant {{ $labels.tenant }} sends far more than it may",
        "More than half of its requests of the last minute were refused, {{ $value | humanizePercentage }} of them.",
    ),
    Alert(
        "EventLoopLag",
        "warning",
        "30s",
        f"{NOW.quantile(0.99, m.LOOP_LAG, by=GATEWAY)} > 0.25",
        "Gateway {{ $labels.instance }} is late by {{ $value | humanizeDuration }}",
        "Its event loop is held up: every request and stream of this process waits for as long.",
    ),
)

ENGINES = (
    Alert(
        "NoEngineReady",
        "critical",
        "5s",
        NOW.total(m.REPLICA_READY, by=GATEWAY, how="max") + " == 0",
        "Gateway {{ $labels.instance }} has no engine that is ready",
        "Nothing can be answered but from the cache.",
    ),
    Alert(
        "EngineDown",
        "critical",
        "10s",
        NOW.total(m.REPLICA_READY, by=OF_REPLICA, how="min") + " == 0",
        "Engine {{ $labels.replica }} is out of rotation at {{ $labels.instance }}",
        "It refuses connections, fails its health check, has stalled or has not generated since it started.",
    ),
    Alert(
        "BreakerOpen",
        "critical",
        "5s",
        NOW.total(m.BREAKER_STATE, 'state=~"open|half_open"', by=OF_REPLICA) + " > 0",
        "Engine {{ $labels.replica }} fails so often that it is left alone",
        "It accepts requests and does not answer them as it should; trials are sent until one succeeds.",
    ),
    Alert(
        "EngineStalled",
        "critical",
        "0s",
        NOW.rose(m.STALLS, by=OF_REPLICA, window="5m"),
        "Engine {{ $labels.replica }} has stalled",
        "It had work and made no progress for longer than `engine_stall_s`. Its requests were taken over by others.",
    ),
    Alert(
        "EngineCrashLoop",
        "critical",
        "0s",
        f"{_given_up} > 0 or sum by (job, instance, engine) (increase({m.ENGINE_RESTARTS.name}[10m])) > 2.5",
        "Engine {{ $labels.engine }} crashes again and again",
        "It was started again three times within ten minutes, or was given up.",
    ),
    Alert(
        "EngineOutOfMemory",
        "critical",
        "0s",
        NOW.rose(m.ENGINE_OOM, by=OF_ENGINE, window="10m"),
        "Engine {{ $labels.engine }} ran out of memory",
        "The engine said so, or the kernel killed it for it.",
    ),
    Alert(
        "DiscoveryFailing",
        "warning",
        "30s",
        f"sum by (job, instance, source) (increase({m.DISCOVERY_FAILURES.name}[1m])) > 0",
        "Engines of {{ $labels.source }} cannot be looked up",
        "The gateway goes on with those it knows; new ones are not found and gone ones stay.",
    ),
)

GPUS = (
    Alert(
        "GPUMemoryFull",
        "warning",
        "1m",
        f"{_gpu_memory} > 0.98",
        "GPU {{ $labels.gpu }} of {{ $labels.instance }} has {{ $value | humanizePercentage }} of its memory in use",
        "The next allocation may fail, and with it the engine.",
    ),
    Alert(
        "GPUHot",
        "warning",
        "1m",
        NOW.total(m.GPU_TEMPERATURE, by=OF_GPU, how="max") + " > 85",
        "GPU {{ $labels.gpu }} of {{ $labels.instance }} is at {{ $value }} °C",
        "Near 90 °C it slows down, and some degrees later it stops.",
    ),
    Alert(
        "GPUFaulty",
        "critical",
        "0s",
        f"({NOW.rose(m.GPU_ECC_ERRORS, by=OF_GPU, window='10m')}) or "
        f"({NOW.rose(m.GPU_XID_ERRORS, by=OF_GPU, window='10m')})",
        "GPU {{ $labels.gpu }} of {{ $labels.instance }} reports faults",
        "Memory errors that could not be corrected, or a fault (Xid) that the driver reported.",
    ),
    Alert(
        "GPUIdleWhileQueued",
        "warning",
        "1m",
        f"{_gpu_busy.format('1m')} < 0.1 and on () sum({m.QUEUE_DEPTH.name}) > 0",
        "GPU {{ $labels.gpu }} of {{ $labels.instance }} is idle while requests wait",
        "Busy for {{ $value | humanizePercentage }} of the last minute: its engine is down, stalled or not asked.",
    ),
    Alert(
        "GPULowUtilisation",
        "info",
        "30m",
        f"{_gpu_busy.format('1h')} < 0.1",
        "GPU {{ $labels.gpu }} of {{ $labels.instance }} has little to do",
        "Busy for {{ $value | humanizePercentage }} of the last hour: it costs as much as a busy one.",
    ),
)

STATE = (
    Alert(
        "LimitsDegraded",
        "warning",
        "10s",
        NOW.total(m.LIMITS_DEGRADED, by=GATEWAY, how="max") + " > 0",
        "Gateway {{ $labels.instance }} enforces its share of the limits alone",
        "Redis or Valkey cannot be used, so that gateways do not know of each other's counts.",
    ),
    Alert(
        "BudgetsUnknown",
        "warning",
        "5m",
        NOW.total(m.BUDGETS_UNKNOWN, by=GATEWAY, how="max") + " > 0",
        "Gateway {{ $labels.instance }} does not know what was used of {{ $value }} budgets",
        "The usage ledger has not told; those budgets count from this gateway's start.",
    ),
    Alert(
        "LimitCountsLost",
        "warning",
        "0s",
        f"({NOW.rose(m.LIMITS_MENDED, by=GATEWAY, window='10m')}) or "
        f"({NOW.rose(m.SETTLEMENTS_LOST, by=GATEWAY, window='10m')})",
        "Some shared counts of limits are not what was used",
        "Counts held something else and began anew, or corrections to them were given up.",
    ),
    Alert(
        "KeysDatabaseDown",
        "warning",
        "10s",
        NOW.total(m.KEYS_DATABASE_UP, by=GATEWAY, how="min") + " == 0",
        "Gateway {{ $labels.instance }} cannot reach the keys' database",
        "Keys it knows go on working; others are answered 503, and revocations are not heard of.",
    ),
    Alert(
        "KeySetUnreadable",
        "warning",
        "0s",
        NOW.rose(m.KEY_SET_FAILURES, by=GATEWAY, window="5m"),
        "Gateway {{ $labels.instance }} cannot read the tokens' key set",
        "Tokens that a new key signed are not accepted.",
    ),
    Alert(
        "KeyExpiresSoon",
        "warning",
        "0s",
        f"{NOW.total(m.KEY_EXPIRY, by=JOB, how='min')} - time() < {7 * DAY_S}",
        "A key expires in {{ $value | humanizeDuration }}",
        "The next of the database's keys to expire has less than a week left.",
    ),
    Alert(
        "CertificateExpiresSoon",
        "warning",
        "0s",
        f"{NOW.total(m.CERTIFICATE_EXPIRY, by=GATEWAY, how='min')} - time() < {21 * DAY_S}",
        "The certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}",
        "From then on no client connects. The gateway reads a new one when it starts.",
    ),
    Alert(
        "UsageNotWritten",
        "warning",
        "0s",
        NOW.rose(m.USAGE_FAILURES, by=(*GATEWAY, "to"), window="5m"),
        "Usage cannot be written to the {{ $labels.to }} by {{ $labels.instance }}",
        "It waits and is written later; what is billed and what budgets know lags until then.",
    ),
    Alert(
        "UsageDropped",
        "critical",
        "0s",
        NOW.rose(m.USAGE_DROPPED, by=GATEWAY, window="10m"),
        "Usage of {{ $value | humanize }} requests is lost at {{ $labels.instance }}",
        "Too much of it waited, or too long. It will be on no bill.",
    ),
    Alert(
        "SharedCacheFailing",
        "warning",
        "30s",
        NOW.rate(m.CACHE_SHARED_FAILURES, by=GATEWAY) + " > 0.1",
        "The shared response cache fails at {{ $labels.instance }}",
        "Redis or Valkey is away or too slow; each failure is a miss, and the engines have that work.",
    ),
    Alert(
        "ConfigNotFollowed",
        "warning",
        "30s",
        NOW.total(m.CONFIG_LAST_RELOAD_SUCCESSFUL, by=GATEWAY, how="min") + " == 0",
        "Gateway {{ $labels.instance }} does not follow its changed settings",
        "They could not be read, or are wrong: it goes on with the former ones, and would not start with these.",
    ),
    Alert(
        "LogLinesDropped",
        "warning",
        "0s",
        NOW.rose(m.LOG_LINES_DROPPED, by=GATEWAY, window="5m"),
        "Log lines of {{ $labels.instance }} are lost",
        "Whatever takes them is away, full or too slow. Requests are not held up by it.",
    ),
    Alert(
        "BackgroundTaskFailing",
        "warning",
        "0s",
        NOW.rose(m.BACKGROUND_FAILURES, by=(*GATEWAY, "task"), window="5m"),
        "What keeps {{ $labels.task }} at {{ $labels.instance }} has failed",
        "It is started again after a moment, and again where that fails too: a fault of Forebay's own.",
    ),
)

GROUPS: dict[str, tuple[Alert, ...]] = {
    "forebay-traffic": TRAFFIC,
    "forebay-engines": ENGINES,
    "forebay-gpus": GPUS,
    "forebay-state": STATE,
    "forebay-slo": tuple(burn_alerts()),
}
ALERTS: tuple[Alert, ...] = tuple(alert for alerts in GROUPS.values() for alert in alerts)
