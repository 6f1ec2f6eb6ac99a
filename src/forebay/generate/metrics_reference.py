"""`docs/reference/metrics.md`."""

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
    return HEADER + "".join(map(_row, CATALOGUE))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return (
        f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} | {', '.join(metric.shown)} |\n"
    )
