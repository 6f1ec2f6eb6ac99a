"""EVERY metric that Forebay exports: name, kind, labels, buckets, meaning. Data only; nothing is named elsewhere.

What is a rate has no metric of its own: tokens a second are `rate(forebay_completion_tokens_total[1m])`, and so on.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` carries its unit (`_seconds`, `_bytes`, `_tokens`); counters end in `_total`.

    Each is shown in a panel or used by an alert (`monitoring/`), but one that is not `public`: that is for those who
    look into Forebay itself.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    public: bool = True

    @property
    def unit(self) -> str:
        """What it is measured in, as its name says; empty for what is just counted."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in UNITS else ""


UNITS = frozenset({"seconds", "bytes", "tokens", "ratio", "celsius", "watts"})


LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TTFT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)

REQUESTS = Metric("forebay_requests_total", "counter", "Requests answered, by status.", ("endpoint", "model", "status"))
DURATION = Metric(
    "forebay_request_duration_seconds",
    "histogram",
    "Time from a request's headers to the end of its answer.",
    ("endpoint", "model"),
    LATENCY_S,
)
TTFT = Metric(
    "forebay_time_to_first_token_seconds",
    "histogram",
    "Time from a request's headers to the first event of its stream.",
    ("endpoint", "model"),
    TTFT_S,
)
TOKEN_GAP = Metric(
    "forebay_inter_token_seconds",
    "histogram",
    "Time between two blocks of a stream, mostly one token each.",
    ("endpoint", "model"),
    GAP_S,
)
PROMPT_TOKENS = Metric(
    "forebay_prompt_tokens_total",
    "counter",
    "Prompt tokens, as the engine counted them.",
    ("endpoint", "model"),
)
CACHED_TOKENS = Metric(
    "forebay_cached_prompt_tokens_total",
    "counter",
    "Prompt tokens that the engine took from its prefix cache.",
    ("endpoint", "model"),
)
COMPLETION_TOKENS = Metric(
    "forebay_completion_tokens_total",
    "counter",
    "Generated tokens, as the engine counted them; of streams cut short, the events delivered.",
    ("endpoint", "model"),
)
ERRORS = Metric(
    "forebay_errors_total", "counter", "Requests that ended in an error, by its code.", ("endpoint", "code")
)
RETRIES = Metric("forebay_retries_total", "counter", "Attempts beyond the first.", ("endpoint",))
TAKEOVERS = Metric(
    "forebay_takeovers_total",
    "counter",
    "Requests that another replica took over from one that died or stalled, streams midway included.",
    ("endpoint",),
)
RESUMES = Metric(
    "forebay_resumes_total",
    "counter",
    "Streams that another replica went on with after some of it had reached the client; each is a takeover as well.",
    ("endpoint",),
)
CACHE_REQUESTS = Metric(
    "forebay_cache_requests_total",
    "counter",
    "Requests for which the response cache was asked, by what came of it: hit, miss or bypass.",
    ("model", "result"),
)
CACHE_BYTES = Metric("forebay_cache_bytes", "gauge", "Memory that cached answers take.")
CACHE_ENTRIES = Metric("forebay_cache_entries", "gauge", "Answers in the response cache.")
CACHE_EVICTIONS = Metric(
    "forebay_cache_evictions_total", "counter", "Answers that left the response cache to make room for others."
)
CACHE_SHARED_FAILURES = Metric(
    "forebay_cache_shared_failures_total",
    "counter",
    "Times that the shared cache (Redis or Valkey) failed or was too slow, which is a miss.",
)
CONFIG_RELOADS = Metric(
    "forebay_config_reloads_total",
    "counter",
    "Times the settings were read again, by result: ok or failed.",
    ("result",),
)
CONFIG_LAST_RELOAD_SUCCESSFUL = Metric(
    "forebay_config_last_reload_successful",
    "gauge",
    "1 unless the settings could not be followed when last read again.",
)
ACTIVE = Metric("forebay_active_requests", "gauge", "Relayed requests under way.")
QUEUE_DEPTH = Metric("forebay_queue_requests", "gauge", "Requests that wait for a model's engines.", ("model",))
QUEUE_RUNNING = Metric("forebay_queue_running", "gauge", "Requests that a model's engines have now.", ("model",))
QUEUE_LIMIT = Metric("forebay_queue_limit", "gauge", "Requests that a model's engines may have at once.", ("model",))
PREFILL_TOKENS = Metric(
    "forebay_prefill_tokens",
    "gauge",
    "Prompt tokens that a model's engines were sent and have not read yet, where that is bounded (prefill_target_s).",
    ("model",),
)
PREFILL_LIMIT_TOKENS = Metric(
    "forebay_prefill_limit_tokens",
    "gauge",
    "Prompt tokens that they may have unread: what they read in prefill_target_s, as measured.",
    ("model",),
)
QUEUE_WAIT = Metric(
    "forebay_queue_wait_seconds",
    "histogram",
    "Time that those waited who had to, and were let in.",
    ("endpoint", "model"),
    LATENCY_S,
)
QUEUE_REFUSALS = Metric(
    "forebay_queue_refusals_total",
    "counter",
    "Requests not let in: the queue full, the wait hopeless, or too long for a queue that stands, the deadline passed, "
    "or way given to another tenant.",
    ("model", "reason"),
)
TENANT_REQUESTS = Metric(
    "forebay_tenant_requests_total",
    "counter",
    "Requests of a tenant that are over. The `max_tenant_series` most active are named; all others are `other`.",
    ("tenant",),
)
TENANT_TOKENS = Metric(
    "forebay_tenant_tokens_total",
    "counter",
    "Tokens of a tenant's requests: those of prompts are `in`, generated ones `out`.",
    ("tenant", "direction"),
)
TENANT_REFUSALS = Metric(
    "forebay_tenant_refusals_total",
    "counter",
    "Requests of a tenant that were refused: as wrong, by a limit, by the queue, or for want of an engine.",
    ("tenant",),
)
TENANT_QUEUE = Metric(
    "forebay_tenant_queue_requests", "gauge", "Requests of a tenant that wait for a model's engines.", ("tenant",)
)
CONNECTIONS = Metric("forebay_connections", "gauge", "Client connections open.")
TASKS = Metric("forebay_tasks", "gauge", "Tasks of the event loop. Ordinary requests have none, so it hardly moves.")
REPLICA_READY = Metric("forebay_replica_ready", "gauge", "1 if the replica is in rotation.", ("replica",))
REPLICA_IN_FLIGHT = Metric(
    "forebay_replica_in_flight", "gauge", "Requests under way at the replica, by our own count.", ("replica",)
)
REPLICA_LOAD = Metric(
    "forebay_replica_load_tokens",
    "gauge",
    "Tokens of the requests under way at the replica: their prompts' and those they may generate, estimated.",
    ("replica",),
)
BREAKER_STATE = Metric(
    "forebay_breaker_state",
    "gauge",
    "1 for the state that the replica's breaker is in, 0 for others.",
    ("replica", "state"),
)
GROUP_ATTEMPTS = Metric(
    "forebay_group_attempts_total",
    "counter",
    "Attempts at a group's replicas, of models with several groups, by how they ended: answered or failed. What failed "
    "may have been answered by another group.",
    ("model", "group", "outcome"),
)
GROUP_TTFT = Metric(
    "forebay_group_time_to_first_token_seconds",
    "histogram",
    "Time from sending a request to a replica of the group to the first event of its stream, of models with several "
    "groups.",
    ("model", "group"),
    TTFT_S,
)
STALLS = Metric(
    "forebay_replica_stalls_total", "counter", "Times a replica had work and made no progress.", ("replica",)
)
UNREAD_METRICS = Metric(
    "forebay_replica_metrics_failures_total",
    "counter",
    "Times a replica's own metrics could not be read for /metrics/engines, in which they are missing then.",
    ("replica",),
)
DISCOVERY_ENDPOINTS = Metric(
    "forebay_discovery_endpoints", "gauge", "Engines that the source names now, or named last.", ("source",)
)
DISCOVERY_FAILURES = Metric(
    "forebay_discovery_failures_total",
    "counter",
    "Times the source could not be asked, so that what it named last was kept.",
    ("source",),
)
ENGINE_STATE = Metric(
    "forebay_engine_state",
    "gauge",
    "1 for the state that the engine is in, 0 for others.",
    ("engine", "state"),
)
ENGINE_RESTARTS = Metric("forebay_engine_restarts_total", "counter", "Times the engine was started again.", ("engine",))
ENGINE_OOM = Metric(
    "forebay_engine_out_of_memory_total", "counter", "Out-of-memory events seen in the engine.", ("engine",)
)
WARMUP = Metric(
    "forebay_engine_warmup_seconds",
    "gauge",
    "Time that the engine's latest warm-up took, once it is over.",
    ("engine",),
)
WARMUP_CACHE_WARM = Metric(
    "forebay_engine_warmup_cache_warm",
    "gauge",
    "1 if the engine's latest start found a compile cache that an earlier one had completed.",
    ("engine",),
)
LIMIT_REFUSALS = Metric(
    "forebay_limit_refusals_total",
    "counter",
    "Requests refused by a limit: which (requests, tokens, concurrency, day, month, structured, failed_keys), and "
    "whose (key, tenant, address, all).",
    ("limit", "scope"),
)
LIMITS_DEGRADED = Metric(
    "forebay_limits_degraded",
    "gauge",
    "1 while the shared counts cannot be used, so that this gateway enforces its share of the limits alone.",
)
LIMITS_GATEWAYS = Metric("forebay_limits_gateways", "gauge", "Gateways that share the limits, as seen last.")
LIMITS_ENTRIES = Metric(
    "forebay_limits_accounts", "gauge", "Keys, tenants and addresses whose use is counted in this gateway's memory."
)
BUDGETS_UNKNOWN = Metric(
    "forebay_limits_budgets_unknown",
    "gauge",
    "Budgets of which the usage ledger has not told yet how much was used before this gateway began.",
)
LIMITS_MENDED = Metric(
    "forebay_limits_mended_total",
    "counter",
    "Shared counts of a key, tenant or address that held something else and were deleted, so that they began anew.",
)
SETTLEMENTS_LOST = Metric(
    "forebay_limits_settlements_lost_total",
    "counter",
    "Corrections to the shared counts given up, because too many waited while the counts were away.",
)
KEYS_DATABASE_UP = Metric(
    "forebay_keys_database_up", "gauge", "1 while the keys' database can be reached; known keys work without it."
)
KEYS_KNOWN = Metric("forebay_keys_known", "gauge", "Keys of the database that are remembered.")
KEY_EXPIRY = Metric(
    "forebay_key_expiry_timestamp_seconds",
    "gauge",
    "When the next of the database's keys expires, as a Unix time; none where none will.",
)
CERTIFICATE_EXPIRY = Metric(
    "forebay_tls_certificate_expiry_timestamp_seconds",
    "gauge",
    "When the certificate of `tls_cert_file` expires, as a Unix time.",
)
KEY_LOOKUPS = Metric(
    "forebay_key_lookups_total",
    "counter",
    "Look-ups of keys in the database, by what came of it: found, unknown, failed.",
    ("result",),
)
KEY_SET_FAILURES = Metric(
    "forebay_key_set_failures_total", "counter", "Times the tokens' key set (JWKS) could not be read."
)
USAGE_WAITING = Metric(
    "forebay_usage_spool_bytes", "gauge", "Usage that is on disk and not in the database yet, as spooled."
)
USAGE_FAILURES = Metric(
    "forebay_usage_failures_total",
    "counter",
    "Times usage could not be written, by where to: spool, database. It stays and is written later.",
    ("to",),
)
USAGE_DROPPED = Metric(
    "forebay_usage_dropped_total", "counter", "Requests whose usage was dropped: too much of it waited, or too long."
)
BATCHES = Metric("forebay_batches_running", "gauge", "Batches that this gateway is at.")
BATCH_LINES = Metric(
    "forebay_batch_lines_total", "counter", "Lines of batches that are over: answered, or failed.", ("outcome",)
)
GPU = ("gpu", "mig", "name")  # `mig` is empty for a whole GPU, as if there were no such label
GPU_UTILIZATION = Metric(
    "forebay_gpu_utilization_ratio", "gauge", "Share of the time that the GPU was busy, 0 to 1.", GPU
)
GPU_MEMORY_USED = Metric("forebay_gpu_memory_used_bytes", "gauge", "GPU memory in use.", GPU)
GPU_MEMORY_TOTAL = Metric("forebay_gpu_memory_total_bytes", "gauge", "GPU memory that there is.", GPU)
GPU_TEMPERATURE = Metric("forebay_gpu_temperature_celsius", "gauge", "The GPU's temperature.", GPU)
GPU_POWER = Metric("forebay_gpu_power_watts", "gauge", "What the GPU draws.", GPU)
GPU_ECC_ERRORS = Metric(
    "forebay_gpu_ecc_errors_total",
    "counter",
    "Errors of the GPU's memory that could not be corrected, since its driver was loaded.",
    GPU,
)
GPU_XID_ERRORS = Metric(
    "forebay_gpu_xid_errors_total", "counter", "Xid errors: faults that the GPU's driver reported to this process.", GPU
)
LOOP_LAG = Metric(
    "forebay_event_loop_lag_seconds",
    "histogram",
    "How late the event loop woke a task that sleeps: what everything waits that this process does.",
    (),
    LAG_S,
)
HELD_BYTES = Metric(
    "forebay_held_bytes",
    "gauge",
    "Request bodies and whole answers in memory, and what clients leave unread; small ones are not counted.",
)
HELD_MOST_BYTES = Metric("forebay_held_most_bytes", "gauge", "As many of these as there may be (`max_held_bytes`).")
BACKGROUND_FAILURES = Metric(
    "forebay_background_failures_total",
    "counter",
    "Times a task in the background failed, and was started again: a fault of Forebay's own, of which the log tells.",
    ("task",),
)
LOG_LINES_DROPPED = Metric(
    "forebay_log_lines_dropped_total", "counter", "Log lines dropped because their sink did not take them."
)
TRACE_SPANS = Metric(
    "forebay_trace_spans_total",
    "counter",
    "Spans of traced requests, by what became of them: sent, failed (the receiver did not take them), dropped (too "
    "many waited).",
    ("result",),
)
BUILD = Metric("forebay_build_info", "gauge", "Always 1; says which version runs.", ("version",))

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
