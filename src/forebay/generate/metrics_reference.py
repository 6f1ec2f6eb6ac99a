"""`docs/reference/metrics.md`."""

from forebay.monitoring.uses import shown
from forebay.telemetry.catalogue import CATALOGUE, Metric

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Metrics

What `/metrics` exports, besides Python's and the process's own figures (`process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_open_fds`, …). Every label has a bounded set of values. Rates are
Prometheus's to make: tokens a second are `rate(forebay_completion_tokens_total[1m])`. "Shown in" names the dashboards'
panels and the alerts that use a metric. How to scrape is in [observability](../observability.md).

| metric | kind | unit | labels | meaning | shown in |
| --- | --- | --- | --- | --- | --- |
"""


def render() -> str:
    places = shown()
    return HEADER + "".join(_row(metric, places.get(metric.name, ())) for metric in CATALOGUE)


def _row(metric: Metric, places: tuple[str, ...]) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} | {', '.join(places)} |\n"
