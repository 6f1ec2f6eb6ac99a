"""What the page's charts are made of: counters, gauges and buckets as they stand, which whoever reads them twice
differentiates. Nothing is asked of anybody for it; it is all in memory."""

from collections import Counter
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from forebay import __version__
from forebay.gateway.status import readiness_of, seen
from forebay.replicas.replica import Replica
from forebay.telemetry import catalogue
from forebay.telemetry.catalogue import Metric
from forebay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

GPU = "forebay_gpu_"
GPU_METRICS = tuple(metric for metric in catalogue.CATALOGUE if metric.name.startswith(GPU))


def live_of(gateway: "Gateway") -> dict[str, Any]:
    """All that the charts need of one moment; `at` is this process's own clock, seconds."""
    ready, why = readiness_of(gateway)
    lines = gateway.pipeline.admission.lines.values()
    shared = gateway.shared_limits
    return {
        "at": monotonic(),
        "time": time(),
        "version": __version__,
        "status": "draining" if gateway.pipeline.draining else "ok" if ready else "degraded",
        "why": why,
        "counters": _counters(gateway),
        "histograms": {
            "ttft": _histogram(gateway.metrics, catalogue.TTFT),
            "itl": _histogram(gateway.metrics, catalogue.TOKEN_GAP),
            "wait": _histogram(gateway.metrics, catalogue.QUEUE_WAIT),
        },
        "gauges": {
            "running": sum(line.running for line in lines),
            "queued": sum(line.queue.size for line in lines),
            "limit": sum(line.limit for line in lines),
            "active": len(gateway.pipeline.running),
            "connections": len(gateway.connections),
        },
        "replicas": [_replica(replica) for replica in gateway.replicas],
        "engines": [engine.describe() for engine in gateway.engines],
        "gpus": gpus_of(gateway.metrics),
        "limits_degraded": bool(shared.degraded) if shared is not None else False,
    }


def _counters(gateway: "Gateway") -> dict[str, Any]:
    metrics = gateway.metrics
    return {
        "statuses": _by(metrics, catalogue.REQUESTS, "status"),
        "errors": _by(metrics, catalogue.ERRORS, "code"),
        "cache": _by(metrics, catalogue.CACHE_REQUESTS, "result"),
        "prompt_tokens": _sum(metrics, catalogue.PROMPT_TOKENS),
        "cached_tokens": _sum(metrics, catalogue.CACHED_TOKENS),
        "completion_tokens": _sum(metrics, catalogue.COMPLETION_TOKENS) + _under_way(gateway),
        "retries": _sum(metrics, catalogue.RETRIES),
        "takeovers": _sum(metrics, catalogue.TAKEOVERS),
    }


def _under_way(gateway: "Gateway") -> int:
    """What the streams under way have delivered, which is counted as tokens when they end: a chart that waited for the
    end of a long answer would show nothing, and then too much."""
    return sum(one.events_out for one in gateway.pipeline.running if one.cache_state != "hit")


def _by(metrics: Metrics, metric: Metric, label: str) -> dict[str, float]:
    """A counter by one of its labels, over the others."""
    place, sums = metric.labels.index(label), Counter[str]()
    for labels, value in metrics.read(metric):
        sums[labels[place]] += value  # type: ignore[assignment]  # a count, kept as a float
    return dict(sums)


def _sum(metrics: Metrics, metric: Metric) -> float:
    return sum(value for _, value in metrics.read(metric))


def _histogram(metrics: Metrics, metric: Metric) -> dict[str, Any]:
    """Upper bounds, and how many were at most each; the last count is of all."""
    return {"bounds": metric.buckets, "counts": metrics.timed(metric)}


def _replica(replica: Replica) -> dict[str, Any]:
    return {**seen(replica), "concurrency": replica.concurrency, "stalls": replica.stalls, "suspect": replica.suspect}


def gpus_of(metrics: Metrics) -> list[dict[str, Any]]:
    """The GPUs that are measured here, each with its labels and its figures by the metrics' names."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for metric in GPU_METRICS:
        for labels, value in metrics.read(metric):
            gpu = found.setdefault(labels, dict(zip(metric.labels, labels, strict=True)))
            gpu[metric.name.removeprefix(GPU)] = value
    return list(found.values())
