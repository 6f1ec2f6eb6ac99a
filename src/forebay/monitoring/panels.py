"""What a dashboard is: rows of panels, and the variables that its reader chooses by."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from forebay.monitoring.promql import Lens
from forebay.telemetry import catalogue as m
from forebay.telemetry.catalogue import Metric

Kind = Literal["timeseries", "stat", "table", "state-timeline"]
Steps = tuple[tuple[float, str], ...]
WINDOW = "$__rate_interval"
HEIGHTS: dict[Kind, int] = {"timeseries": 8, "stat": 4, "table": 8, "state-timeline": 8}

BAD_FROM_1: Steps = ((0, "green"), (1, "red"))
GOOD_FROM_1: Steps = ((0, "red"), (1, "green"))


@dataclass(frozen=True, slots=True)
class Target:
    """One expression of a panel. `legend` names its series by their labels."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is Grafana's name of it; `steps` colour values from each on; a panel without `top` scales by itself."""

    title: str
    description: str
    unit: str
    targets: tuple[Target, ...]
    kind: Kind = "timeseries"
    width: int = 8
    steps: Steps = ()
    stacked: bool = False
    top: float | None = None

    @property
    def height(self) -> int:
        return HEIGHTS[self.kind]


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together; they wrap at the dashboard's width."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice by one label of one metric."""

    name: str
    label: str
    metric: Metric

    @property
    def matcher(self) -> str:
        return f'=~"${self.name}"'


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`name` is that of its file; its uid is "forebay-" and that."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=())

    @property
    def panels(self) -> Iterator[Panel]:
        for row in self.rows:
            yield from row.panels


GATEWAY = Variable("gateway", "instance", m.BUILD)
MODEL = Variable("model", "model", m.REQUESTS)
TENANT = Variable("tenant", "tenant", m.TENANT_REQUESTS)


def lens(*variables: Variable) -> Lens:
    """What a dashboard with these variables sees."""
    return Lens(WINDOW, {variable.label: variable.matcher for variable in variables})


def one(expr: str, legend: str = "") -> tuple[Target, ...]:
    return (Target(expr, legend),)


def percentiles(seen: Lens, metric: Metric, *shares: float) -> tuple[Target, ...]:
    """Quantiles of a histogram over all its series."""
    return tuple(Target(seen.quantile(share, metric), f"p{share * 100:g}") for share in shares)
