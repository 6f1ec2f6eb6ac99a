"""What is promised of the service, and when it is being broken too fast.

Burn rates over two windows each, as in Google's Site Reliability Workbook, chapter 5, "Alerting on SLOs": a budget is
for 30 days; the long window says that much of it went, the short one that it still goes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from forebay.monitoring.promql import SERVER_ERRORS, Lens
from forebay.monitoring.rules import Alert, Recording, Severity
from forebay.telemetry import catalogue as m
from forebay.telemetry.catalogue import Metric

SHARE = "forebay:slo_bad:ratio_rate"  # and the window
WINDOWS = ("5m", "30m", "1h", "6h", "3d")
SLOW_WINDOWS = ("6h", "3d")
BY_JOB = ("job",)


@dataclass(frozen=True, slots=True)
class Objective:
    """`target` is the share that must be good. A time's `within_s` is one of its histogram's buckets."""

    name: str
    title: str
    target: float
    promise: str
    metric: Metric
    within_s: float | None = None

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1 - self.target, 9)

    def total(self, window: str, lens: Lens | None = None) -> str:
        """How many a second."""
        if self.within_s is None:
            return (lens or RULES).rate(m.REQUESTS, by=BY_JOB, window=window)
        return (lens or RULES).rate(self.metric, by=BY_JOB, window=window, end="_count")

    def bad(self, window: str, lens: Lens | None = None) -> str:
        """How many of them a second were not as promised; 0 where none ever was."""
        lens, total = lens or RULES, self.total(window, lens)
        if self.within_s is None:
            return f"({lens.rate(self.metric, SERVER_ERRORS, by=BY_JOB, window=window)} or 0 * {total})"
        good = lens.rate(self.metric, f'le="{self.bound}"', by=BY_JOB, window=window, end="_bucket")
        return f"({total} - {good})"

    @property
    def bound(self) -> str:
        if self.within_s not in self.metric.buckets:
            raise ValueError(f"{self.metric.name} has no bucket of {self.within_s} s")
        return str(self.within_s)


RULES = Lens("5m")
OBJECTIVES = (
    Objective(
        "availability", "Availability", 0.999, "99.9% of requests get an answer that is no server error", m.ERRORS
    ),
    Objective("ttft", "TTFT", 0.99, "99% of streams begin within 2.5 s", m.TTFT, 2.5),
    Objective("duration", "Duration", 0.99, "99% of requests are over within 60 s", m.DURATION, 60.0),
)


@dataclass(frozen=True, slots=True)
class Burn:
    """So many times the rate that uses up the budget in 30 days, over both windows."""

    factor: float
    long: str
    short: str
    severity: Severity
    spent: str


BURNS = (
    Burn(14.4, "1h", "5m", "critical", "2% of the month's budget in an hour"),
    Burn(6.0, "6h", "30m", "critical", "5% of it in six hours"),
    Burn(1.0, "3d", "6h", "warning", "10% of it in three days"),
)


def recordings(windows: tuple[str, ...]) -> Iterator[Recording]:
    """The share that was bad, for each window and objective."""
    for window in windows:
        for one in OBJECTIVES:
            share = f"{one.bad(window)} / ({one.total(window)} > 0)"
            yield Recording(f"{SHARE}{window}", share, {"slo": one.name})


def burning(one: Objective, burn: Burn) -> str:
    """Whether a budget goes too fast."""
    return " and ".join(
        f'{SHARE}{window}{{slo="{one.name}"}} > {burn.factor * one.budget:g}' for window in (burn.long, burn.short)
    )


def burn_alerts() -> Iterator[Alert]:
    for one in OBJECTIVES:
        for burn in BURNS:
            yield Alert(
                f"{one.title}BudgetBurn",
                burn.severity,
                "0s",
                burning(one, burn),
                f"{one.promise}: the error budget is burning {burn.factor:g} times too fast",
                f"{{{{ $value | humanizePercentage }}}} of the last {burn.long} was not as promised "
                f"(allowed over 30 days: {one.budget:.1%}). At this rate that is {burn.spent}.",
                {"slo": one.name, "window": burn.long},
            )
