"""Who uses the service, who is refused, and what the counting of it stands on."""

from forebay.monitoring.panels import BAD_FROM_1, GATEWAY, GOOD_FROM_1, TENANT, Dashboard, Panel, Row, Target, lens, one
from forebay.telemetry import catalogue as m

SEEN = lens(GATEWAY, TENANT)
_requests = SEEN.rate(m.TENANT_REQUESTS, by=("tenant",))
_refusals = SEEN.rate(m.TENANT_REFUSALS, by=("tenant",))

WHO = Row(
    "Who",
    (
        Panel(
            "Requests by tenant",
            "The most active tenants by name, all others together as `other`.",
            "reqps",
            one(f"topk(20, {_requests})", "{{tenant}}"),
            stacked=True,
        ),
        Panel(
            "Tokens by tenant",
            "Of prompts (in) and generated (out).",
            "none",
            one(f"topk(20, {SEEN.rate(m.TENANT_TOKENS, by=('tenant', 'direction'))})", "{{tenant}} {{direction}}"),
            stacked=True,
        ),
        Panel(
            "Waiting by tenant",
            "Requests in the queues. Turns are shared out fairly: who has many waits longest.",
            "none",
            one(f"topk(20, {SEEN.total(m.TENANT_QUEUE, by=('tenant',))})", "{{tenant}}"),
            stacked=True,
        ),
        Panel(
            "Refused by tenant",
            "Requests refused a second: as wrong, by a limit, by the queue, or for want of an engine.",
            "reqps",
            one(f"topk(20, {_refusals})", "{{tenant}}"),
            stacked=True,
        ),
        Panel(
            "Share refused",
            "Of a tenant's requests; a tenant that floods the service is near 100%.",
            "percentunit",
            one(f"topk(20, {_refusals} / ({_requests} > 0))", "{{tenant}}"),
            top=1,
        ),
        Panel(
            "Refused by limits",
            "Which limit, and whose.",
            "reqps",
            one(SEEN.rate(m.LIMIT_REFUSALS, by=("limit", "scope")), "{{limit}} of {{scope}}"),
            stacked=True,
        ),
    ),
)

COUNTS = Row(
    "What limits stand on",
    (
        Panel(
            "Limits degraded",
            "Gateways that enforce their share alone, because Redis or Valkey cannot be used.",
            "none",
            one(SEEN.total(m.LIMITS_DEGRADED)),
            "stat",
            4,
            BAD_FROM_1,
        ),
        Panel(
            "Gateways that share limits",
            "As each gateway saw last.",
            "none",
            one(SEEN.total(m.LIMITS_GATEWAYS, how="min")),
            "stat",
            4,
            GOOD_FROM_1,
        ),
        Panel(
            "Budgets unknown",
            "Budgets of which it is not known how much was used before.",
            "none",
            one(SEEN.total(m.BUDGETS_UNKNOWN)),
            "stat",
            4,
            BAD_FROM_1,
        ),
        Panel(
            "Callers counted",
            "Keys, tenants and addresses in the gateways' memory.",
            "none",
            one(SEEN.total(m.LIMITS_ENTRIES)),
            "stat",
            4,
        ),
        Panel(
            "Counts begun anew",
            "Shared counts that held something else, in the last hour.",
            "none",
            one(f"sum(increase({SEEN.of(m.LIMITS_MENDED)}[1h]))"),
            "stat",
            4,
            BAD_FROM_1,
        ),
        Panel(
            "Corrections lost",
            "Corrections to shared counts given up, in the last hour.",
            "none",
            one(f"sum(increase({SEEN.of(m.SETTLEMENTS_LOST)}[1h]))"),
            "stat",
            4,
            BAD_FROM_1,
        ),
    ),
)

KEYS = Row(
    "Keys and usage",
    (
        Panel(
            "Keys' database",
            "1 while every gateway reaches it.",
            "none",
            one(SEEN.total(m.KEYS_DATABASE_UP, how="min")),
            "stat",
            4,
            GOOD_FROM_1,
        ),
        Panel("Keys known", "Keys that are remembered.", "none", one(SEEN.total(m.KEYS_KNOWN, how="max")), "stat", 4),
        Panel(
            "Next key to expire",
            "Time until then.",
            "s",
            one(f"{SEEN.total(m.KEY_EXPIRY, how='min')} - time()"),
            "stat",
            4,
            ((0, "red"), (7 * 86_400, "green")),
        ),
        Panel(
            "Certificate",
            "Time until the first of the gateways' certificates expires.",
            "s",
            one(f"{SEEN.total(m.CERTIFICATE_EXPIRY, how='min')} - time()"),
            "stat",
            4,
            ((0, "red"), (21 * 86_400, "green")),
        ),
        Panel(
            "Usage lost",
            "Requests whose usage was dropped in the last hour.",
            "none",
            one(f"sum(increase({SEEN.of(m.USAGE_DROPPED)}[1h]))"),
            "stat",
            4,
            BAD_FROM_1,
        ),
        Panel("Batches", "Batches that gateways are at.", "none", one(SEEN.total(m.BATCHES)), "stat", 4),
        Panel(
            "Key look-ups",
            "In the database, by what came of them.",
            "ops",
            (
                *one(SEEN.rate(m.KEY_LOOKUPS, by=("result",)), "{{result}}"),
                *one(SEEN.rate(m.KEY_SET_FAILURES), "key set unread"),
            ),
            width=6,
        ),
        Panel(
            "Usage not in the database yet",
            "On disk, as spooled.",
            "bytes",
            one(SEEN.total(m.USAGE_WAITING, by=("instance",)), "{{instance}}"),
            width=6,
        ),
        Panel(
            "Usage writes that failed",
            "Tried again until they succeed.",
            "ops",
            one(SEEN.rate(m.USAGE_FAILURES, by=("to",)), "{{to}}"),
            width=6,
        ),
        Panel(
            "Lines of batches",
            "That are over a second.",
            "ops",
            (Target(SEEN.rate(m.BATCH_LINES, by=("outcome",)), "{{outcome}}"),),
            width=6,
        ),
    ),
)

TENANTS = Dashboard(
    "tenants",
    "Forebay: tenants",
    "Who uses the service, who is refused and why, and what limits, keys and usage stand on.",
    (WHO, COUNTS, KEYS),
    (GATEWAY, TENANT),
)
