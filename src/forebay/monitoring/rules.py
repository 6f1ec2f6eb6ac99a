"""What a rule is: a recording, or an alert with all that whoever is woken by it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["critical", "warning", "info"]
SERVICE = "forebay"  # label of all alerts, so that they can be routed and shown
RUNBOOK = "docs/runbook.md"


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus makes of others."""

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """`critical` wakes somebody, `warning` is for today, `info` for the next look at costs. Its section in the runbook
    has its name. `lasts` is how long `expr` must hold before it fires."""

    name: str
    severity: Severity
    lasts: str
    expr: str
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def runbook_url(self) -> str:
        return f"{RUNBOOK}#{self.name.lower()}"
