"""Several engines' metrics become one page that Prometheus reads, whatever the engines say."""

import re

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from forebay.wire.exposition import Page, TooLarge

HOSTILE = 'a"b\\c\nd{e},replica="x"} 1 \u00e9'
MOST = 1 << 20


def engine(model: str, *, running: int) -> str:
    """What an engine says, as prometheus-client has vLLM say it."""
    registry = CollectorRegistry()
    labels = ["model_name", "engine"]
    Gauge("vllm:num_requests_running", "Requests in\nthe \\ engine.", labels, registry=registry).labels(model, "0").set(
        running
    )
    tokens = Counter("vllm:prompt_tokens", "Prompt tokens.", labels, registry=registry)
    tokens.labels(model, "0").inc(1e21)
    first = Histogram(
        "vllm:time_to_first_token_seconds", "First.", labels, buckets=(0.001, 0.25, 1.0), registry=registry
    )
    for seconds in (0.0005, 0.2, 7.0):
        first.labels(model, "0").observe(seconds)
    Gauge("vllm:unlabelled", "No labels.", registry=registry).set(float("nan"))
    Counter("python_gc_objects_collected", "Not the engine's own.", registry=registry).inc()
    return generate_latest(registry).decode()


def page_of(**texts: str) -> str:
    page = Page("vllm:", "replica", MOST)
    for name, text in texts.items():
        page.add(text, name)
    return page.text()


def families(text: str) -> dict[str, Metric]:
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found), "a metric's samples do not stand together"
    return {family.name: family for family in found}


def test_samples_stay_as_they_are_but_for_the_label_that_tells_whose() -> None:
    texts = {"a": engine("m", running=1), "b": engine(HOSTILE, running=2)}
    before = {name: families(text) for name, text in texts.items()}
    after = families(page_of(**texts))
    assert set(after) == {name for name in before["a"] if name.startswith("vllm:")}
    for name, family in after.items():
        assert (family.type, family.documentation) == (before["a"][name].type, before["a"][name].documentation)
        for whose in "ab":
            ours = [one for one in family.samples if one.labels["replica"] == whose]
            theirs = before[whose][name].samples
            told = [(one.name, {**one.labels, "replica": whose}, repr(one.value)) for one in theirs]
            assert [(one.name, one.labels, repr(one.value)) for one in ours] == told


def test_each_metric_is_described_once_and_its_samples_stand_together() -> None:
    text = page_of(a=engine("m", running=1), b=engine("m", running=2), c=engine("m", running=3))
    described = re.findall(r"^# (\w+ \S+)", text, re.MULTILINE)
    assert len(described) == len(set(described))
    assert text.count("vllm:time_to_first_token_seconds_bucket{") == 12
    assert families(text)["vllm:time_to_first_token_seconds"].type == "histogram"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ('replica="theirs"', {"exported_replica": "theirs"}),
        ('a="1",replica="theirs",z="2",', {"a": "1", "exported_replica": "theirs", "z": "2"}),
        ('replica="x",exported_replica="y"', {"exported_exported_replica": "x", "exported_replica": "y"}),
        ('a="replica=\\"x\\"",my_replica="z"', {"a": 'replica="x"', "my_replica": "z"}),
        ('a="}{,replica=\\"",replica="\\\\"', {"a": '}{,replica="', "exported_replica": "\\"}),
        ("", {}),
    ],
)
def test_a_label_that_is_there_already_is_kept_under_another_name(labels: str, expected: dict[str, str]) -> None:
    (sample,) = families(page_of(**{HOSTILE: f"vllm:x{{{labels}}} 1\n"}))["vllm:x"].samples
    assert sample.labels == {"replica": HOSTILE, **expected}
    assert sample.value == 1


@pytest.mark.parametrize(
    "line",
    [
        "vllm:x",
        "vllm:x one",
        'vllm:x{a="1" 1',
        'vllm:x{a="1"',
        'vllm:x{a="\\q"} 1',
        "vllm:x{a=1} 1",
        'vllm:x{a="1"b="2"} 1',
        "vllm:x 1 2 3",
        "vllm:x y 1",
        "vllm:x 1\r",
        "# TYPE vllm:x surprise",
        "# TYPE vllm:x",
        "# HELP ",
        "<html>",
        'vllm:x{a="' + "\\" * 50_001 + '"} 1',
    ],
)
def test_a_line_that_is_not_in_the_format_costs_itself_alone(line: str) -> None:
    text = page_of(a=f"vllm:y 1\n{line}\nvllm:z 2 1700000000000\n")
    assert set(families(text)) == {"vllm:y", "vllm:z"}
    assert not re.search("^vllm:x", text, re.MULTILINE)


def test_engines_that_differ_in_what_a_metric_is_do_not_spoil_it() -> None:
    one, other = "# TYPE vllm:x counter\nvllm:x 1\n", "# TYPE vllm:x gauge\nvllm:x 2\n"
    found = families(page_of(a=one, b=other, c=one))["vllm:x"]
    assert [sample.labels["replica"] for sample in found.samples] == ["a", "c"]


def test_the_page_is_bounded_and_an_engine_is_in_it_as_a_whole_or_not_at_all() -> None:
    page = Page("vllm:", "replica", 1000)
    page.add("vllm:x 1\n" * 10, "a")
    with pytest.raises(TooLarge):
        page.add("vllm:y 1\nvllm:x 1\n" * 500, "b")
    page.add("vllm:x 1\n", "c")
    text = page.text()
    assert (text.count('replica="a"'), text.count('replica="b"'), text.count('replica="c"')) == (10, 0, 1)
    assert "vllm:y" not in text


def test_no_engines_make_an_empty_page() -> None:
    assert page_of() == ""
