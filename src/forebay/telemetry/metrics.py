"""The catalogue's metrics as numbers, and their way to Prometheus.

Counting is on the hot path and single-threaded, so it is a dictionary or list increment; prometheus-client's own
children, which lock and loop on every observation, would cost several times as much. Its exposition format is used
as it is: `Metrics` is a collector that it asks at each scrape.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from forebay.telemetry.catalogue import CATALOGUE, Metric

Labels = tuple[str, ...]
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
Samples = Callable[[], Iterable[tuple[Labels, float]]]


class Counter:
    """One labelled counter; add to `value`. (A whole number while those that are added are: that is quicker.)"""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """Counts of one labelled histogram: `counts[i]` observations at most `bounds[i]`, the last beyond all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """Prometheus's buckets: upper bound and how many are at most that."""
        running = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            yield bound, running


class Metrics(Collector):
    """All of the catalogue. Gauges are read at scrape time from functions given to `watch`."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, Counter]] = {m.name: {} for m in CATALOGUE if m.kind == "counter"}
        self._histograms: dict[str, dict[Labels, Histogram]] = {m.name: {} for m in CATALOGUE if m.kind == "histogram"}
        self._watched: dict[str, Samples] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def counter(self, metric: Metric, labels: Labels) -> Counter:
        """A labelled counter, made where it is new; keep it to count without a look-up."""
        children = self._counters[metric.name]
        child = children.get(labels)
        if child is None:
            child = children[labels] = Counter()
        return child

    def histogram(self, metric: Metric, labels: Labels) -> Histogram:
        """The same for a histogram."""
        children = self._histograms[metric.name]
        child = children.get(labels)
        if child is None:
            child = children[labels] = Histogram(metric.buckets)
        return child

    def watch(self, metric: Metric, samples: Samples) -> None:
        """Read a gauge, or a counter kept elsewhere, at each scrape."""
        self._watched[metric.name] = samples

    def read(self, metric: Metric) -> Iterable[tuple[Labels, float]]:
        """A counter's or a gauge's values now, by its labels."""
        watched = self._watched.get(metric.name)
        return watched() if watched else self._counted(metric)

    def timed(self, metric: Metric) -> list[int]:
        """A histogram over all its labels: how many were at most each bound, and last how many there were."""
        children = self._histograms[metric.name].values()
        return list(
            accumulate(map(sum, zip([0] * (len(metric.buckets) + 1), *(c.counts for c in children), strict=True)))
        )

    def collect(self) -> Iterator[Family]:
        for metric in CATALOGUE:
            yield self._family(metric)

    def _family(self, metric: Metric) -> Family:
        if metric.kind == "histogram":
            histograms = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, child in self._histograms[metric.name].items():
                histograms.add_metric(labels, list(child.cumulative()), child.total)
            return histograms
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for labels, value in self.read(metric):
            family.add_metric(labels, value)
        return family

    def _counted(self, metric: Metric) -> Iterator[tuple[Labels, float]]:
        return ((labels, float(child.value)) for labels, child in self._counters.get(metric.name, {}).items())
