"""`deploy/prometheus/alerts.yaml` and `recording.yaml`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from forebay.generate.yaml_text import dump
from forebay.monitoring.alerts import GROUPS
from forebay.monitoring.rules import SERVICE, Alert, Recording
from forebay.monitoring.uses import RECORDINGS

HEADER = "# Generated from the code: `make generate`.\n"
# Long windows read much and change little.
INTERVALS = {"forebay-slo-fast": "15s", "forebay-slo-slow": "30s"}


def render(groups: Mapping[str, Sequence[Alert | Recording]]) -> str:
    return HEADER + dump({"groups": [_group(name, rules) for name, rules in groups.items()]})


render_alerts = partial(render, GROUPS)
render_recordings = partial(render, RECORDINGS)


def _group(name: str, rules: Sequence[Alert | Recording]) -> dict[str, Any]:
    interval = {"interval": INTERVALS[name]} if name in INTERVALS else {}
    return {"name": name, **interval, "rules": [_alert(r) if isinstance(r, Alert) else _recording(r) for r in rules]}


def _recording(rule: Recording) -> dict[str, Any]:
    return {"record": rule.name, "expr": rule.expr, "labels": rule.labels}


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.lasts,
        "labels": {"severity": alert.severity, "service": SERVICE, **alert.labels},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": alert.runbook_url,
        },
    }
