"""Dashboards, alerts, runbook and catalogue speak of the same things."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from forebay.monitoring.alerts import ALERTS, NOW
from forebay.monitoring.elsewhere import ELSEWHERE
from forebay.monitoring.promql import names_in
from forebay.monitoring.uses import DASHBOARDS, RECORDINGS, expressions, shown
from forebay.telemetry import catalogue
from forebay.telemetry.catalogue import CATALOGUE, Metric

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
PARTS = ["Means", "Look at", "Ask", "Do", "Rehearsed"]
LIVE = (ROOT / "tests" / "deploy" / "test_live.py").read_text()
BROKEN_LIVE = set(re.findall(r'^    \("(\w+)", "\w*"\),$', LIVE, re.MULTILINE))
BOARDS: list[dict[str, Any]] = [json.loads(file.read_text()) for file in FILES]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not (apart_x or apart_y)


def test_whatever_is_read_is_exported_by_someone() -> None:
    recorded = {one.name for group in RECORDINGS.values() for one in group}
    known = {metric.name for metric in (*CATALOGUE, *ELSEWHERE)} | recorded
    used = [*expressions(), *((one.name, one.expr) for group in RECORDINGS.values() for one in group)]
    for where, expression in used:
        assert names_in(expression), where
        assert names_in(expression) <= known, where


def test_every_public_metric_is_in_a_panel_or_an_alert() -> None:
    used = shown()
    assert [metric.name for metric in CATALOGUE if metric.public and metric.name not in used] == []


def test_a_label_that_a_metric_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="forebay_requests_total has no label code"):
        NOW.rate(catalogue.REQUESTS, 'code="x"')
    with pytest.raises(ValueError, match="forebay_requests_total has no label tenant"):
        NOW.rate(catalogue.REQUESTS, by=("tenant",))


def test_names_are_found_in_expressions() -> None:
    made = Metric("forebay_a_total", "counter", "", ("model",))
    expression = f'{NOW.rate(made, by=("model",))} > 0 and on (job) up{{job="forebay_b"}} unless x_total offset 5m'
    assert names_in(expression) == {"forebay_a_total", "up", "x_total"}
    assert names_in(NOW.quantile(0.9, catalogue.TTFT)) == {catalogue.TTFT.name}


def test_every_dashboard_is_delivered_and_has_a_uid_of_its_own() -> None:
    assert [file.stem for file in FILES] == sorted(board.name for board in DASHBOARDS)
    assert len({board["uid"] for board in BOARDS}) == len({board["title"] for board in BOARDS}) == len(FILES)
    assert all(re.fullmatch(r"[a-z0-9-]{1,40}", board["uid"]) for board in BOARDS)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board["uid"]))
class TestDashboard:
    def test_panels_do_not_overlap_and_fit(self, board: dict[str, Any]) -> None:
        places = [panel["gridPos"] for panel in board["panels"]]
        assert not [pair for pair in combinations(places, 2) if overlap(*pair)]
        assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)

    def test_panels_are_told_apart_and_explained(self, board: dict[str, Any]) -> None:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert len({panel["title"] for panel in panels(board)}) == len(panels(board))
        for panel in panels(board):
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]

    def test_the_reader_chooses_the_datasource(self, board: dict[str, Any]) -> None:
        chosen = {variable["name"] for variable in board["templating"]["list"]}
        for panel in panels(board):
            for target in (panel, *panel["targets"]):
                assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            used = {name for target in panel["targets"] for name in re.findall(r"\$(?!__)(\w+)", target["expr"])}
            assert used <= chosen, panel["title"]


def section(name: str) -> str:
    found = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert found, f"the runbook has no section {name}"
    return found[1]


def test_every_alert_leads_to_a_section_that_says_what_to_do() -> None:
    for alert in ALERTS:
        page, _, anchor = alert.runbook_url.partition("#")
        assert ROOT / page == ROOT / "docs" / "runbook.md"
        assert anchor == alert.name.lower(), "the anchor that a heading of this name has"
        assert re.findall(r"^\*\*(.+?)\*\*:", section(alert.name), re.MULTILINE) == PARTS, alert.name


@pytest.mark.parametrize("alert", sorted({alert.name for alert in ALERTS}))
def test_a_section_of_the_runbook_has_commands_that_tell_more_and_says_how_it_was_rehearsed(alert: str) -> None:
    parts = dict(re.findall(r"^\*\*(.+?)\*\*: (.*?)(?=^\*\*|\Z)", section(alert), re.MULTILINE | re.DOTALL))
    commands = re.findall(r"`([^`]+)`", parts["Ask"])
    assert commands
    for command in commands:
        assert names_in(command) <= {metric.name for metric in CATALOGUE} or "forebay_" not in command, command
    tests = re.findall(r"`(tests/[^`]+)`", parts["Rehearsed"])
    assert tests or "not rehearsed" in parts["Rehearsed"].lower()
    assert all((ROOT / test).is_file() for test in tests)
    assert ("test_live.py" in parts["Rehearsed"]) == (alert in BROKEN_LIVE), "what is broken on purpose is said to be"


def test_the_runbook_has_no_section_without_an_alert_and_names_panels_that_exist() -> None:
    assert set(re.findall(r"^### (.+)$", RUNBOOK, re.MULTILINE)) == {alert.name for alert in ALERTS}
    titles = {panel.title for board in DASHBOARDS for panel in board.panels} | {board.title for board in DASHBOARDS}
    others = {"Forebay: engines", "Site Reliability Workbook"}  # a title said shorter, and a book
    sections = [re.sub(r"\s+", " ", section(alert.name)) for alert in ALERTS]
    named = {name for text in sections for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", text)}
    assert named - titles - others == set()
    assert len(named) > 30


def test_links_within_the_runbook_lead_somewhere() -> None:
    anchors = {alert.name.lower() for alert in ALERTS}
    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK)) <= anchors


def test_every_alert_says_how_bad_it_is_and_what_happened() -> None:
    for alert in ALERTS:
        assert alert.severity in ("critical", "warning", "info")
        assert alert.description.endswith("."), alert.name
        assert not alert.summary.endswith("."), alert.name
        assert re.fullmatch(r"\d+[sm]", alert.lasts), alert.name
