"""The first dashboard to look at: its first row says what is wrong, the others where."""

from forebay.monitoring import elsewhere as other
from forebay.monitoring.panels import (
    BAD_FROM_1,
    GATEWAY,
    MODEL,
    WINDOW,
    Dashboard,
    Panel,
    Row,
    Target,
    lens,
    one,
    percentiles,
)
from forebay.monitoring.promql import LIMIT_ERRORS, SERVER_ERRORS, Lens
from forebay.monitoring.rules import SERVICE
from forebay.telemetry import catalogue as m

SEEN = lens(GATEWAY, MODEL)
_failing = f"({SEEN.rate(m.ERRORS, SERVER_ERRORS)} or vector(0))"
_limited = f"({SEEN.rate(m.ERRORS, LIMIT_ERRORS)} or vector(0))"
_requests = f"({SEEN.rate(m.REQUESTS)} > 0)"
_not_closed = SEEN.of(m.BREAKER_STATE, 'state=~"open|half_open"')
_firing = Lens(WINDOW).of(other.ALERTS, 'alertstate="firing"', f'service="{SERVICE}"')

WRONG = Row(
    "What is wrong",
    (
        Panel(
            "Alerts that fire",
            "Each links to its section of the runbook in Prometheus. None is the wanted state.",
            "none",
            one(
                f"sum by (alertname, severity, instance, model, replica, engine, tenant, gpu, window) ({_firing})",
                "{{alertname}}",
            ),
            "table",
            12,
        ),
        Panel(
            "Gateways down",
            "Gateways whose /metrics cannot be scraped.",
            "none",
            one(f'count({other.UP.name}{{job="{SERVICE}"}} == 0) or vector(0)'),
            "stat",
            3,
            BAD_FROM_1,
        ),
        Panel(
            "Engines down",
            "Engines out of rotation, as seen by the gateway that sees most of them so.",
            "none",
            one(f"max(sum by (instance) ({SEEN.of(m.REPLICA_READY)} == bool 0))"),
            "stat",
            3,
            BAD_FROM_1,
        ),
        Panel(
            "Breakers not closed",
            "Engines that answer wrongly and are left alone, or tried again.",
            "none",
            one(f"sum({_not_closed})"),
            "stat",
            3,
            BAD_FROM_1,
        ),
        Panel(
            "Failing",
            "Share of requests that end in a server error.",
            "percentunit",
            one(f"{_failing} / {_requests}"),
            "stat",
            3,
            ((0, "green"), (0.001, "orange"), (0.05, "red")),
        ),
        Panel(
            "Over limits",
            "Share of requests refused by a limit of their key, tenant, address, or of all.",
            "percentunit",
            one(f"{_limited} / {_requests}"),
            "stat",
            3,
            ((0, "green"), (0.1, "orange")),
        ),
        Panel(
            "Waiting",
            "Requests in the queues, for each that the engines can have at once: from 1 on they are saturated.",
            "none",
            one(f"sum({SEEN.of(m.QUEUE_DEPTH)}) / clamp_min(sum({SEEN.of(m.QUEUE_LIMIT)}), 1)"),
            "stat",
            3,
            ((0, "green"), (0.25, "orange"), (1, "red")),
        ),
        Panel(
            "TTFT, p99",
            "Time to the first token that 99% of streams are within.",
            "s",
            one(SEEN.quantile(0.99, m.TTFT)),
            "stat",
            3,
            ((0, "green"), (1, "orange"), (2.5, "red")),
        ),
        Panel(
            "Requests",
            "Requests a second, whatever their end.",
            "reqps",
            one(SEEN.rate(m.REQUESTS)),
            "stat",
            3,
            ((0, "blue"),),
        ),
    ),
)

TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests by status",
            "Requests that are over. 499 is a client that left.",
            "reqps",
            one(SEEN.rate(m.REQUESTS, by=("status",)), "{{status}}"),
            stacked=True,
        ),
        Panel(
            "Errors by code",
            "What each error is and what to do about it is in docs/reference/errors.md.",
            "reqps",
            one(SEEN.rate(m.ERRORS, by=("code",)), "{{code}}"),
            stacked=True,
        ),
        Panel(
            "Under way",
            "Requests that are relayed now, and client connections open.",
            "none",
            (Target(SEEN.total(m.ACTIVE), "requests"), Target(SEEN.total(m.CONNECTIONS), "connections")),
        ),
        Panel(
            "Tokens",
            "Tokens a second: prompts as the engines counted them, those of them found in prefix caches, and answers.",
            "none",
            (
                Target(SEEN.rate(m.PROMPT_TOKENS), "prompts"),
                Target(SEEN.rate(m.CACHED_TOKENS), "of them cached"),
                Target(SEEN.rate(m.COMPLETION_TOKENS), "generated"),
            ),
        ),
        Panel(
            "Requests by model",
            "Requests a second for each model.",
            "reqps",
            one(SEEN.rate(m.REQUESTS, by=("model",)), "{{model}}"),
            stacked=True,
        ),
        Panel(
            "Second attempts",
            "Retries before anything was sent, requests taken over from an engine that died, streams resumed midway.",
            "ops",
            (
                Target(SEEN.rate(m.RETRIES), "retries"),
                Target(SEEN.rate(m.TAKEOVERS), "takeovers"),
                Target(SEEN.rate(m.RESUMES), "resumed"),
            ),
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel("Time to first token", "Of streams.", "s", percentiles(SEEN, m.TTFT, 0.5, 0.9, 0.99), width=6),
        Panel("Duration", "Of whole requests.", "s", percentiles(SEEN, m.DURATION, 0.5, 0.9, 0.99), width=6),
        Panel(
            "Between tokens",
            "Of streams, block by block.",
            "s",
            percentiles(SEEN, m.TOKEN_GAP, 0.5, 0.9, 0.99),
            width=6,
        ),
        Panel(
            "Wait in the queue",
            "Of those that had to wait and were let in.",
            "s",
            percentiles(SEEN, m.QUEUE_WAIT, 0.5, 0.9, 0.99),
            width=6,
        ),
    ),
)

QUEUE = Row(
    "Queue and cache",
    (
        Panel(
            "Queue by model",
            "Requests that wait, those that the engines have, and those that they may have at once.",
            "none",
            (
                Target(SEEN.total(m.QUEUE_DEPTH, by=("model",)), "{{model}} waiting"),
                Target(SEEN.total(m.QUEUE_RUNNING, by=("model",)), "{{model}} running"),
                Target(SEEN.total(m.QUEUE_LIMIT, by=("model",)), "{{model}} limit"),
            ),
        ),
        Panel(
            "Prompts to read",
            "Prompt tokens that engines were sent and have not read yet, and how many that may be (prefill_target_s).",
            "none",
            (
                Target(SEEN.total(m.PREFILL_TOKENS, by=("model",)), "{{model}} unread"),
                Target(SEEN.total(m.PREFILL_LIMIT_TOKENS, by=("model",)), "{{model}} limit"),
            ),
        ),
        Panel(
            "Turned away by the queue",
            "Full, hopeless (it would take too long), standing (kept short), past its deadline, or gave way.",
            "reqps",
            one(SEEN.rate(m.QUEUE_REFUSALS, by=("model", "reason")), "{{model}} {{reason}}"),
            stacked=True,
        ),
        Panel(
            "Response cache",
            "Requests for which it was asked, by what came of it.",
            "reqps",
            one(SEEN.rate(m.CACHE_REQUESTS, by=("result",)), "{{result}}"),
            stacked=True,
        ),
        Panel(
            "Cache memory",
            "Memory that cached answers take.",
            "bytes",
            one(SEEN.total(m.CACHE_BYTES), "answers"),
            width=6,
        ),
        Panel("Cache entries", "Answers kept.", "none", one(SEEN.total(m.CACHE_ENTRIES), "answers"), width=6),
        Panel(
            "Cache evictions", "Answers that made room for others.", "ops", one(SEEN.rate(m.CACHE_EVICTIONS)), width=6
        ),
        Panel(
            "Shared cache failures",
            "Times that Redis or Valkey failed or was too slow, each a miss.",
            "ops",
            one(SEEN.rate(m.CACHE_SHARED_FAILURES)),
            width=6,
        ),
    ),
)

PROCESS = Row(
    "The gateways themselves",
    (
        Panel(
            "Processor",
            "Cores in use; a gateway is one process on one core.",
            "none",
            one(SEEN.rate(other.CPU, by=("instance",)), "{{instance}}"),
            width=6,
        ),
        Panel("Memory", "Resident.", "bytes", one(SEEN.total(other.MEMORY, by=("instance",)), "{{instance}}"), width=6),
        Panel(
            "Event loop lag",
            "How late the event loop is, p99: what everything in the process waits.",
            "s",
            one(SEEN.quantile(0.99, m.LOOP_LAG, by=("instance",)), "{{instance}}"),
            width=6,
        ),
        Panel(
            "Tasks",
            "Tasks of the event loop: conversations, batches and administration have some while they last. What only "
            "rises is lost.",
            "none",
            one(SEEN.total(m.TASKS, by=("instance",)), "{{instance}}"),
            width=6,
        ),
        Panel(
            "Files open",
            "Share of the file descriptors that the process may have; a connection is one.",
            "percentunit",
            one(
                f"{SEEN.total(other.OPEN_FILES, by=('instance',))} / {SEEN.total(other.MAX_FILES, by=('instance',))}",
                "{{instance}}",
            ),
            width=6,
            top=1,
        ),
        Panel(
            "Log lines dropped",
            "Lines that their sink did not take.",
            "ops",
            one(SEEN.rate(m.LOG_LINES_DROPPED, by=("instance",)), "{{instance}}"),
            width=6,
        ),
        Panel(
            "Held in memory",
            "Bodies, whole answers and what is left unread: share of what there may be. Beyond it callers get 503.",
            "percentunit",
            one(
                f"{SEEN.total(m.HELD_BYTES, by=('instance',))} / {SEEN.total(m.HELD_MOST_BYTES, by=('instance',))}",
                "{{instance}}",
            ),
            width=6,
            top=1,
        ),
        Panel(
            "Background tasks that failed",
            "Each is started again; the log says what went wrong.",
            "ops",
            one(SEEN.rate(m.BACKGROUND_FAILURES, by=("instance", "task")), "{{instance}} {{task}}"),
            width=6,
        ),
        Panel(
            "Trace spans",
            "Spans of traced requests, by what became of them; none where tracing is off.",
            "ops",
            one(SEEN.rate(m.TRACE_SPANS, by=("result",)), "{{result}}"),
            width=6,
        ),
        Panel(
            "Settings followed",
            "1 unless the settings could not be followed when last read again.",
            "none",
            one(SEEN.total(m.CONFIG_LAST_RELOAD_SUCCESSFUL, by=("instance",), how="min"), "{{instance}}"),
            width=6,
            top=1,
        ),
        Panel(
            "Settings read again",
            "How often, by result, in the last hour.",
            "none",
            one(f"sum by (result) (increase({SEEN.of(m.CONFIG_RELOADS)}[1h]))", "{{result}}"),
            width=6,
        ),
        Panel(
            "Version and age",
            "What runs, and for how long.",
            "s",
            one(
                f"max by (instance, version) (time() - {SEEN.of(other.STARTED)} "
                f"+ on (instance) group_left (version) 0 * {SEEN.of(m.BUILD)})",
                "{{instance}} {{version}}",
            ),
            "table",
            6,
        ),
    ),
)

OVERVIEW = Dashboard(
    "overview",
    "Forebay: overview",
    "Start here. The first row says what is wrong, the others show where.",
    (WRONG, TRAFFIC, LATENCY, QUEUE, PROCESS),
    (GATEWAY, MODEL),
)
