"""`docs/reference/metrics.md`."""

from forebay.monitoring.uses import shown
from forebay.telemetry.catalogue import CATALOGUE, Metric

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Metrics

What `/metrics` exports, besides Python's and the process's own figures. Every label has a bounded set of values.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def render() -> str:
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in CATALOGUE
    ]
    return HEADER + "\n".join(rows) + "\n"
