"""The page needs nothing from elsewhere, and shows what was measured."""

import re
from xml.etree import ElementTree

import pytest

from forebay.loadgen.figures import Slo, summarise
from forebay.loadgen.outcome import Outcome
from forebay.loadgen.plots import Series, plot, ticks
from forebay.loadgen.report import as_html, token_rates, under_way
from forebay.loadgen.sweep import Trial
from tests.unit.loadgen.samples import run_of, sample

RUN = run_of(*(sample(n / 8, n / 8 + 0.5, n / 8 + 0.75, n / 8 + 1.0) for n in range(50)))


def outcome(kind: str = "latency") -> Outcome:
    made = Outcome(kind, "http://host/<b>", "m & n", "2030-01-01T00:00:00+00:00", {"attainment": 0.9}, Slo(ttft=0.6))
    made.run, made.summary = RUN, summarise(RUN, made.slo)
    if kind == "sweep":
        made.trials = [Trial(rate, rate < 3, "because", made.summary) for rate in (1.0, 2.0, 4.0)]
    return made


@pytest.mark.parametrize("kind", ["latency", "sweep"])
def test_the_page_asks_for_nothing_and_runs_nothing(kind: str) -> None:
    page = as_html(outcome(kind))
    assert not re.search(r"<script|<link|<img|\bsrc=|href=|url\(|@import", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize(("kind", "plots"), [("latency", 7), ("sweep", 12)])
def test_every_plot_is_well_formed_and_has_points(kind: str, plots: int) -> None:
    drawn = re.findall(r"<svg.*?</svg>", as_html(outcome(kind)))
    assert len(drawn) == plots
    for one in drawn:
        tree = ElementTree.fromstring(one)
        assert len(tree.findall("polyline")) + len(tree.findall("circle")) > 0
        assert "nan" not in one


def test_what_a_server_says_of_itself_is_text() -> None:
    page = as_html(outcome())
    assert "m &amp; n" in page
    assert "<b>" not in page


def test_a_run_without_any_answer_still_has_a_page() -> None:
    made = outcome()
    made.run = run_of(sample(0.0, failure="status 500"))
    made.summary = summarise(made.run)
    assert "status 500" in as_html(made)


def test_points_are_where_the_axes_say() -> None:
    tree = ElementTree.fromstring(plot("t", "x", "y", Series([(0, 0), (10, 100)]), limit=50))
    (line,) = tree.findall("polyline")
    (x0, y0), (x1, y1) = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    limit = next(one for one in tree.findall("line") if one.attrib["class"] == "limit")
    assert x0 < x1
    assert y0 > y1
    assert float(limit.attrib["y1"]) == pytest.approx((y0 + y1) / 2, abs=0.1)


@pytest.mark.parametrize(("highest", "last"), [(0, 1), (0.7, 0.8), (1, 1), (9.5, 10), (103, 125), (4000, 4000)])
def test_ticks_are_round_and_reach_the_highest_value(highest: float, last: float) -> None:
    found = ticks(highest)
    assert found[0] == 0
    assert found[-1] == pytest.approx(last)
    assert len(found) <= 7


def test_what_was_under_way_and_the_tokens_add_up() -> None:
    assert max(count for _, count in under_way(RUN)) == 8  # sent every 1/8 s, a second long
    width = (RUN.ended - RUN.started) / 60
    assert sum(rate * width for _, rate in token_rates(RUN)) == pytest.approx(150)
