"""The engines: as gateways see them, as their supervisors do, by their GPUs, and by vLLM's own figures."""

from forebay.monitoring import elsewhere as other
from forebay.monitoring.panels import GATEWAY, Dashboard, Panel, Row, Steps, Target, lens, one
from forebay.telemetry import catalogue as m
from forebay.telemetry.catalogue import Metric

SEEN = lens(GATEWAY)
EVERY = lens()  # vLLM's figures, and GPUs', may come from elsewhere than the gateways
_REPLICA, _ENGINE, _GPU = "{{replica}}", "{{engine}}", "{{instance}} {{gpu}}"
_gpu = ("instance", "gpu")
_open = SEEN.total(m.BREAKER_STATE, 'state="open"', by=("replica",), how="max")
_half_open = SEEN.total(m.BREAKER_STATE, 'state="half_open"', by=("replica",), how="max")
_UP_DOWN: Steps = ((0, "red"), (1, "green"))

ROTATION = Row(
    "As the gateways see them",
    (
        Panel(
            "In rotation",
            "Green while the engine is asked, red while it is not.",
            "none",
            one(SEEN.total(m.REPLICA_READY, by=("replica",), how="min"), _REPLICA),
            "state-timeline",
            steps=_UP_DOWN,
        ),
        Panel(
            "Breakers",
            "0 closed, 1 half open (a trial is sent), 2 open (left alone).",
            "none",
            one(f"2 * {_open} + {_half_open}", _REPLICA),
            "state-timeline",
            steps=((0, "green"), (1, "orange"), (2, "red")),
        ),
        Panel(
            "Stalls",
            "Times in the last 5 minutes that an engine had work and made no progress.",
            "none",
            one(f"sum by (replica) (increase({SEEN.of(m.STALLS)}[5m]))", _REPLICA),
        ),
        Panel(
            "In flight",
            "Requests under way at each engine.",
            "none",
            one(SEEN.total(m.REPLICA_IN_FLIGHT, by=("replica",)), _REPLICA),
        ),
        Panel(
            "Load",
            "Tokens of the requests under way: what routing goes by.",
            "none",
            one(SEEN.total(m.REPLICA_LOAD, by=("replica",)), _REPLICA),
        ),
        Panel(
            "Found",
            "Engines that each source names.",
            "none",
            one(SEEN.total(m.DISCOVERY_ENDPOINTS, by=("source",), how="max"), "{{source}}"),
        ),
        Panel(
            "Look-ups that failed",
            "Times a source could not be asked; what it named last was kept.",
            "ops",
            one(SEEN.rate(m.DISCOVERY_FAILURES, by=("source",)), "{{source}}"),
            width=12,
        ),
        Panel(
            "Engine metrics unread",
            "Times an engine's own metrics could not be read for /metrics/engines.",
            "ops",
            one(SEEN.rate(m.UNREAD_METRICS, by=("replica",)), _REPLICA),
            width=12,
        ),
    ),
)

_group = ("model", "group")
_attempts = f"({SEEN.rate(m.GROUP_ATTEMPTS, by=_group)} > 0)"
_failed = SEEN.rate(m.GROUP_ATTEMPTS, 'outcome="failed"', by=_group)

VERSIONS = Row(
    "Versions side by side",
    (
        Panel(
            "Attempts by group",
            "What each group of a model's engines is sent, where it has several: a canary gets its weight's share.",
            "reqps",
            one(SEEN.rate(m.GROUP_ATTEMPTS, by=_group), "{{model}} {{group}}"),
        ),
        Panel(
            "Failed attempts by group",
            "Share of each group's attempts that failed; callers see those only that no other engine made good.",
            "percentunit",
            one(f"{_failed} / {_attempts}", "{{model}} {{group}}"),
            top=1,
        ),
        Panel(
            "Time to first token by group",
            "95th percentile, from sending a request to an engine; the wait in the queue is not in it.",
            "s",
            one(SEEN.quantile(0.95, m.GROUP_TTFT, by=_group), "{{model}} {{group}}"),
        ),
    ),
)

SUPERVISED = Row(
    "As their supervisors do (`forebay serve`, `forebay engine`)",
    (
        Panel(
            "State",
            "The state that each engine is in.",
            "none",
            one(f"max by (engine, state) ({EVERY.of(m.ENGINE_STATE)} == 1)", "{{engine}} {{state}}"),
            "state-timeline",
            steps=_UP_DOWN,
        ),
        Panel(
            "Restarts",
            "In the last hour.",
            "none",
            one(f"sum by (engine) (increase({EVERY.of(m.ENGINE_RESTARTS)}[1h]))", _ENGINE),
        ),
        Panel(
            "Out of memory",
            "Events in the last hour.",
            "none",
            one(f"sum by (engine) (increase({EVERY.of(m.ENGINE_OOM)}[1h]))", _ENGINE),
        ),
        Panel(
            "Warm-up",
            "Time that each engine's latest warm-up took.",
            "s",
            one(EVERY.total(m.WARMUP, by=("engine",), how="max"), _ENGINE),
            width=12,
        ),
        Panel(
            "Compile cache",
            "1 if the latest start found one that an earlier start had completed.",
            "none",
            one(EVERY.total(m.WARMUP_CACHE_WARM, by=("engine",), how="min"), _ENGINE),
            "state-timeline",
            12,
            ((0, "orange"), (1, "green")),
        ),
    ),
)

GPUS = Row(
    "GPUs",
    (
        Panel(
            "GPU utilisation",
            "Share of the time that a kernel ran.",
            "percentunit",
            one(EVERY.total(m.GPU_UTILIZATION, by=_gpu, how="max"), _GPU),
            top=1,
        ),
        Panel(
            "GPU memory",
            "Share in use. vLLM takes its share at the start and keeps it.",
            "percentunit",
            one(
                f"{EVERY.total(m.GPU_MEMORY_USED, by=_gpu)} / {EVERY.total(m.GPU_MEMORY_TOTAL, by=_gpu)}",
                _GPU,
            ),
            steps=((0, "green"), (0.98, "red")),
            top=1,
        ),
        Panel(
            "GPU temperature",
            "Near 90 °C a GPU slows down.",
            "celsius",
            one(EVERY.total(m.GPU_TEMPERATURE, by=_gpu, how="max"), _GPU),
            steps=((0, "green"), (85, "red")),
        ),
        Panel("GPU power", "What it draws.", "watt", one(EVERY.total(m.GPU_POWER, by=_gpu, how="max"), _GPU), width=12),
        Panel(
            "GPU faults",
            "Memory errors that could not be corrected and Xid events, in the last hour.",
            "none",
            (
                Target(f"sum by (instance, gpu) (increase({EVERY.of(m.GPU_ECC_ERRORS)}[1h]))", f"{_GPU} ECC"),
                Target(f"sum by (instance, gpu) (increase({EVERY.of(m.GPU_XID_ERRORS)}[1h]))", f"{_GPU} Xid"),
            ),
            width=12,
        ),
    ),
)


def _each(expr: str) -> str:
    """One figure an engine, of which each gateway that is scraped tells."""
    return f"max by (replica) ({expr})"


def _gauge(metric: Metric) -> str:
    return _each(EVERY.total(metric, by=_SCRAPED))


def _rate(metric: Metric) -> str:
    return _each(EVERY.rate(metric, by=_SCRAPED))


def _mean(metric: Metric) -> str:
    return _each(EVERY.mean(metric, by=_SCRAPED))


_SCRAPED = ("instance", "replica")
INSIDE = Row(
    "Inside vLLM (scraped from /metrics/engines)",
    (
        Panel(
            "Batch",
            "Requests in each engine's batch, and those that wait in the engine.",
            "none",
            (
                Target(_gauge(other.VLLM_RUNNING), "{{replica}} running"),
                Target(_gauge(other.VLLM_WAITING), "{{replica}} waiting"),
            ),
        ),
        Panel(
            "KV cache",
            "Share in use; near 100% requests are preempted.",
            "percentunit",
            one(EVERY.total(other.VLLM_KV_USAGE, by=("replica",), how="max"), _REPLICA),
            steps=((0, "green"), (0.95, "red")),
            top=1,
        ),
        Panel(
            "Preemptions",
            "Requests a second put back for want of KV cache; each is prefilled anew.",
            "ops",
            one(_rate(other.VLLM_PREEMPTIONS), _REPLICA),
        ),
        Panel(
            "Prefix cache hits",
            "Share of the prompts' tokens that were there already.",
            "percentunit",
            one(f"{_rate(other.VLLM_PREFIX_HITS)} / ({_rate(other.VLLM_PREFIX_QUERIES)} > 0)", _REPLICA),
            top=1,
        ),
        Panel(
            "Engine tokens",
            "Tokens a second, prefilled and generated.",
            "none",
            (
                Target(_rate(other.VLLM_PROMPT_TOKENS), "{{replica}} prefilled"),
                Target(_rate(other.VLLM_GENERATED), "{{replica}} generated"),
            ),
        ),
        Panel(
            "Where time goes in the engine",
            "Mean of each phase of a request.",
            "s",
            (
                Target(_mean(other.VLLM_QUEUE_TIME), "{{replica}} waiting"),
                Target(_mean(other.VLLM_PREFILL_TIME), "{{replica}} prefill"),
                Target(_mean(other.VLLM_DECODE_TIME), "{{replica}} decode"),
            ),
        ),
    ),
)

ENGINES = Dashboard(
    "engines",
    "Forebay: engines and GPUs",
    "Which engine is down, left alone, crashing, out of memory or slow, and what its GPU does.",
    (ROTATION, VERSIONS, SUPERVISED, GPUS, INSIDE),
    (GATEWAY,),
)
