"""The rules that Prometheus is given: they parse, and each alert fires when it should, does not nearly, and ceases."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forebay.generate.prometheus_rules import render
from forebay.monitoring.alerts import ALERTS
from forebay.monitoring.rules import SERVICE, Alert, Recording
from forebay.monitoring.uses import RECORDINGS
from tests.deploy.rule_cases import BURNING, CAUSES, Case
from tests.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = [str(DEPLOY / name) for name in ("alerts.yaml", "recording.yaml")]


def promtool(*words: str) -> None:
    done = subprocess.run([program("promtool"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]


def firing(case: Case, number: int, at_s: float) -> dict[str, Any]:
    """What promtool is to find: so many of the case's alert fire at a time."""
    chosen = "".join(f',{name}="{value}"' for name, value in case.chosen.items())
    alert = next(alert for alert in ALERTS if alert.name == case.alert and case.chosen.items() <= alert.labels.items())
    labels = {**case.labels, **alert.labels, "severity": alert.severity, "service": SERVICE}
    told = ",".join(f'{name}="{value}"' for name, value in labels.items())
    full = f'ALERTS{{alertname="{case.alert}",alertstate="firing",{told}}}'
    return {
        "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"{chosen}}}',
        "eval_time": f"{at_s:g}s",
        "exp_samples": [{"labels": full, "value": 1}] * number,
    }


def stories(case: Case) -> Iterator[dict[str, Any]]:
    """What is to happen, as promtool's tests: once ill, once nearly."""
    step, ill_at, well_at = case.step_s, case.well_s, case.well_s + case.ill_s
    end = well_at + case.calm_s
    phases = [[(case.well_s, f.well), (case.ill_s, f.ill), (case.calm_s, f.well)] for f in case.figures]
    yield {
        "name": f"{case} fires and ceases",
        "interval": f"{step:g}s",
        "input_series": [f.line(phase, step) for f, phase in zip(case.figures, phases, strict=True)],
        "promql_expr_test": [
            firing(case, 0, ill_at - step),
            firing(case, 1, ill_at + case.by_s - step),
            firing(case, 0, end - step),
        ],
    }
    nearly = [[(case.well_s, f.well), (case.ill_s, f.well if f.nearly is None else f.nearly)] for f in case.figures]
    if any(f.nearly is not None for f in case.figures):
        yield {
            "name": f"{case} is near and does not fire",
            "interval": f"{step:g}s",
            "input_series": [f.line(phase, step) for f, phase in zip(case.figures, nearly, strict=True)],
            "promql_expr_test": [firing(case, 0, at) for at in (ill_at + case.by_s - step, well_at - step)],
        }


def rules_for(case: Case) -> list[Alert | Recording]:
    """The case's alert and the recordings that it reads: all rules for each case take promtool ten times as long."""
    alerts = [alert for alert in ALERTS if alert.name == case.alert and case.chosen.items() <= alert.labels.items()]
    made = [one for group in RECORDINGS.values() for one in group if one.labels.get("slo") == case.chosen.get("slo")]
    return [*(one for one in made if any(one.name + "{" in alert.expr for alert in alerts)), *alerts]


def run(cases: list[Case], directory: Path) -> None:
    for number, case in enumerate(cases):
        (directory / f"{number}.rules.yaml").write_text(render({"tested": rules_for(case)}))
        interval = {"evaluation_interval": f"{case.step_s:g}s"}
        told = {"rule_files": [f"{number}.rules.yaml"], **interval, "tests": list(stories(case))}
        (directory / f"{number}.yaml").write_text(json.dumps(told))
    promtool("test", "rules", *(str(directory / f"{number}.yaml") for number in range(len(cases))))


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_prometheus_takes_the_example(tmp_path: Path) -> None:
    for file in DEPLOY.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "forebay.key").write_text("sk-test")
    promtool("check", "config", str(tmp_path / "prometheus.yaml"))


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in (*CAUSES, *BURNING)} == {alert.name for alert in ALERTS}


def test_alerts_on_causes_fire_in_time_and_cease(tmp_path: Path) -> None:
    run(CAUSES, tmp_path)


def test_alerts_on_budgets_fire_when_they_burn_too_fast(tmp_path: Path) -> None:
    run(BURNING, tmp_path)


def test_who_is_woken_is_told_within_half_a_minute() -> None:
    """Of 30 s, up to 5 go until a scrape; so an alert has 25 from the figure to its firing."""
    critical = {alert.name for alert in ALERTS if alert.severity == "critical"}
    slow = {case.alert for case in CAUSES if case.by_s > 25} - {case.alert for case in CAUSES if case.by_s <= 25}
    assert critical & slow == set()
