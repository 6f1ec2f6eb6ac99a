"""Where each metric is used: panels as "dashboard/Panel title", alerts as "alert/Name"."""

from collections.abc import Iterator

from forebay.monitoring.alerts import ALERTS
from forebay.monitoring.engines import ENGINES
from forebay.monitoring.overview import OVERVIEW
from forebay.monitoring.promql import names_in
from forebay.monitoring.slo import SLOW_WINDOWS, WINDOWS, recordings
from forebay.monitoring.slo_board import SLO
from forebay.monitoring.tenants import TENANTS

DASHBOARDS = (OVERVIEW, TENANTS, ENGINES, SLO)
RECORDINGS = {
    "forebay-slo-fast": tuple(recordings(tuple(window for window in WINDOWS if window not in SLOW_WINDOWS))),
    "forebay-slo-slow": tuple(recordings(SLOW_WINDOWS)),
}


def expressions() -> Iterator[tuple[str, str]]:
    """Every panel's and alert's name and expression."""
    for board in DASHBOARDS:
        for panel in board.panels:
            yield from ((f"{board.name}/{panel.title}", target.expr) for target in panel.targets)
    yield from ((f"alert/{alert.name}", alert.expr) for alert in ALERTS)


def shown() -> dict[str, tuple[str, ...]]:
    """By each metric's name where it is used."""
    found: dict[str, dict[str, None]] = {}
    for where, expression in expressions():
        for name in names_in(expression):
            found.setdefault(name, {})[where] = None
    return {name: tuple(places) for name, places in found.items()}
