"""What two samples of a gateway's metrics say of the time between them: rates, and quantiles of what was timed. Pure.

A counter that is smaller than before belongs to a gateway that was started again, so all of it is new. A metric that is
not there counts as 0: a label has no value before it is first used.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forebay.telemetry import catalogue
from forebay.telemetry.catalogue import Metric

Labels = frozenset[tuple[str, str]]
Values = Mapping[str, Mapping[Labels, float]]
Where = tuple[str, str]  # a label and what it must be
CLIENT_GONE = "499"
GPU_METRICS = (
    catalogue.GPU_UTILIZATION,
    catalogue.GPU_MEMORY_USED,
    catalogue.GPU_MEMORY_TOTAL,
    catalogue.GPU_TEMPERATURE,
    catalogue.GPU_POWER,
)
GPU_FAULTS = (catalogue.GPU_ECC_ERRORS, catalogue.GPU_XID_ERRORS)


@dataclass(frozen=True)
class Figures:
    """Of one model, or of all together."""

    requests_per_s: float
    failed_per_s: float
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    cache_hits_per_s: float
    cache_hit_ratio: float | None
    running: int
    queued: int
    limit: int


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one, as it is now; None is what is not told."""

    name: str
    model: str
    utilization: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    temperature_celsius: float | None
    power_watts: float | None
    faults: float


@dataclass(frozen=True)
class View:
    """All that is shown of the time between two samples."""

    interval_s: float
    total: Figures
    models: Mapping[str, Figures]
    errors_per_s: Mapping[str, float]  # by code
    gpus: tuple["Gpu", ...] = ()


def view(old: Values, new: Values, interval_s: float) -> View:
    """What happened between two samples that lie `interval_s` apart."""
    change = _Change(old, new, interval_s)
    models = sorted(change.named(catalogue.REQUESTS, "model") | change.named(catalogue.QUEUE_LIMIT, "model"))
    codes = sorted(change.named(catalogue.ERRORS, "code"))
    errors = {code: change.rate(catalogue.ERRORS, ("code", code)) for code in codes}
    return View(
        interval_s,
        _figures(change, ()),
        {model: _figures(change, (("model", model),)) for model in models},
        {code: rate for code, rate in errors.items() if rate},
        _gpus(new),
    )


def _gpus(values: Values) -> tuple[Gpu, ...]:
    """The GPUs of the gateway's own machine."""
    found = {labels for metric in GPU_METRICS for labels in values.get(metric.name, ())}
    return tuple(_gpu(values, labels) for labels in sorted(found, key=_gpu_name))


def _gpu_name(labels: Labels) -> str:
    named = dict(labels)
    part = named.get("mig", "")
    return f"{named.get('gpu', '?')}.{part}" if part else named.get("gpu", "?")


def _gpu(values: Values, labels: Labels) -> Gpu:
    busy, used, total, temperature, power = (values.get(metric.name, {}).get(labels) for metric in GPU_METRICS)
    faults = sum(values.get(metric.name, {}).get(labels, 0.0) for metric in GPU_FAULTS)
    model = dict(labels).get("name", "?")
    return Gpu(_gpu_name(labels), model, busy, used, total, temperature, power, faults)


def _figures(change: "_Change", where: tuple[Where, ...]) -> Figures:
    bounds = change.buckets(catalogue.TTFT, where)
    hits = change.rate(catalogue.CACHE_REQUESTS, *where, ("result", "hit"))
    looked_up = hits + change.rate(catalogue.CACHE_REQUESTS, *where, ("result", "miss"))
    return Figures(
        requests_per_s=change.rate(catalogue.REQUESTS, *where),
        failed_per_s=change.failed(where),
        prompt_tokens_per_s=change.rate(catalogue.PROMPT_TOKENS, *where),
        completion_tokens_per_s=change.rate(catalogue.COMPLETION_TOKENS, *where),
        ttft_p50_s=quantile(0.50, bounds),
        ttft_p95_s=quantile(0.95, bounds),
        cache_hits_per_s=hits,
        cache_hit_ratio=hits / looked_up if looked_up else None,
        running=int(change.now(catalogue.QUEUE_RUNNING, where)),
        queued=int(change.now(catalogue.QUEUE_DEPTH, where)),
        limit=int(change.now(catalogue.QUEUE_LIMIT, where)),
    )


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """The value below which a share of what was counted lies, as `histogram_quantile` has it; None where nothing was.

    `buckets` has the count of values up to each bound. Within a bucket values are taken to lie evenly; of those above
    the last bound nothing is known but that.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    below, floor = 0.0, 0.0
    for bound in bounds:
        if (count := buckets[bound]) >= rank and count > below:
            return floor if math.isinf(bound) else floor + (bound - floor) * (rank - below) / (count - below)
        below, floor = count, bound
    return floor


class _Change:
    """Two samples, and what lies between them."""

    def __init__(self, old: Values, new: Values, interval_s: float) -> None:
        self._old = old
        self._new = new
        self._interval_s = max(interval_s, 1e-9)

    def named(self, metric: Metric, label: str) -> set[str]:
        """The values that a label of a metric has."""
        return {dict(labels).get(label, "") for labels in self._new.get(metric.name, ())} - {""}

    def now(self, metric: Metric, where: Iterable[Where]) -> float:
        wanted = frozenset(where)
        return sum(value for labels, value in self._new.get(metric.name, {}).items() if wanted <= labels)

    def rate(self, metric: Metric, *where: Where) -> float:
        """A counter's increase in a second, over all labels that are not named."""
        return sum(self._increases(metric.name, frozenset(where)).values()) / self._interval_s

    def failed(self, where: Iterable[Where]) -> float:
        """Answers in a second with a status that says no; a client that left was refused nothing."""
        found = self._increases(catalogue.REQUESTS.name, frozenset(where))
        status_of = {labels: dict(labels).get("status", "") for labels in found}
        return sum(found[one] for one, status in status_of.items() if CLIENT_GONE != status >= "400") / self._interval_s

    def buckets(self, metric: Metric, where: Iterable[Where]) -> dict[float, float]:
        """What a histogram has counted up to each bound."""
        counted: dict[float, float] = {}
        for labels, up in self._increases(f"{metric.name}_bucket", frozenset(where)).items():
            bound = float(dict(labels)["le"])
            counted[bound] = counted.get(bound, 0.0) + up
        return counted

    def _increases(self, name: str, wanted: Labels) -> dict[Labels, float]:
        before = self._old.get(name, {})
        now = {labels: value for labels, value in self._new.get(name, {}).items() if wanted <= labels}
        return {
            labels: value - (was if (was := before.get(labels, 0.0)) <= value else 0) for labels, value in now.items()
        }
