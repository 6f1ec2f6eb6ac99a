"""The objectives: how good it was, how much of the budget is left, how fast it goes."""

from forebay.monitoring.panels import WINDOW, Dashboard, Panel, Row, Steps, Target, one
from forebay.monitoring.slo import BURNS, OBJECTIVES, SHARE, WINDOWS, Objective

_LEFT: Steps = ((-1000, "red"), (0, "orange"), (0.25, "green"))
_BURNING: Steps = ((0, "green"), (BURNS[2].factor, "orange"), (BURNS[1].factor, "red"))


def _row(one_of: Objective) -> Row:
    share = f'{{slo="{one_of.name}"}}'
    month = f"sum({one_of.bad('30d')}) / sum({one_of.total('30d')} > 0)"
    return Row(
        f"{one_of.title}: {one_of.promise}",
        (
            Panel(
                f"{one_of.title}: budget left",
                f"Of the {one_of.budget:.1%} that may be bad in 30 days; below 0% the promise is broken.",
                "percentunit",
                one(f"1 - ({month}) / {one_of.budget:g}"),
                "stat",
                6,
                _LEFT,
            ),
            Panel(
                f"{one_of.title}: burn now",
                "How many times too fast the budget went in the last hour; 1 uses it up in 30 days.",
                "none",
                one(f"max({SHARE}1h{share}) / {one_of.budget:g}"),
                "stat",
                6,
                _BURNING,
            ),
            Panel(
                f"{one_of.title}: good now",
                "Share of the last minutes' requests that were as promised.",
                "percentunit",
                one(f"1 - sum({one_of.bad(WINDOW)}) / sum({one_of.total(WINDOW)} > 0)"),
                "stat",
                6,
                ((0, "red"), (one_of.target, "green")),
            ),
            Panel(
                f"{one_of.title}: good in 3 days",
                "Share of the requests of the last three days that were as promised.",
                "percentunit",
                one(f"1 - max({SHARE}3d{share})"),
                "stat",
                6,
                ((0, "red"), (one_of.target, "green")),
            ),
            Panel(
                f"{one_of.title}: burn rates",
                "Over each window. Alerts fire when both windows of a pair are above their line: "
                + ", ".join(f"{burn.long} and {burn.short} above {burn.factor:g}" for burn in BURNS)
                + ".",
                "none",
                tuple(
                    Target(f"max by (job) ({SHARE}{window}{share}) / {one_of.budget:g}", window) for window in WINDOWS
                ),
                width=24,
                steps=_BURNING,
            ),
        ),
    )


SLO = Dashboard(
    "slo",
    "Forebay: objectives",
    "What is promised, how much of the error budget is left and how fast it goes (multi-window burn rates).",
    tuple(map(_row, OBJECTIVES)),
)
