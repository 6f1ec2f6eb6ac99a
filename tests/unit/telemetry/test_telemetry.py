"""Log lines cannot be forged, a blocked sink holds nobody up, and metrics are what Prometheus reads."""

import json
import logging
import os

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from forebay.telemetry import catalogue as metric
from forebay.telemetry.logging import MAX_QUEUED_LINES, LineHandler, LogWriter
from forebay.telemetry.metrics import Metrics

HOSTILE = 'x\n{"level":"error"}\r\x1b[31m\u2028"'


@pytest.mark.parametrize("text", [True, False])
def test_a_hostile_value_stays_on_its_line(text: bool) -> None:
    theirs, ours = os.pipe()
    writer = LogWriter(ours, text=text)
    writer.start()
    record = logging.makeLogRecord({"msg": HOSTILE, "levelname": "INFO", "name": "n", "field": HOSTILE})
    LineHandler(writer).emit(record)
    writer.stop()
    os.close(ours)
    with os.fdopen(theirs, "rb") as pipe:
        written = pipe.read()
    assert written.count(b"\n") == 1
    assert b"\x1b" not in written
    assert b"\r" not in written
    if not text:
        assert json.loads(written)["field"] == HOSTILE


def test_a_sink_that_takes_nothing_costs_lines_not_time() -> None:
    theirs, ours = os.pipe()
    writer = LogWriter(ours, text=False)
    writer.start()
    for number in range(MAX_QUEUED_LINES + 5000):
        writer.write({"time": 0.0, "level": "info", "message": "m" * 100, "number": number})
    assert writer.dropped > 0
    writer.stop(within_s=0.1)
    os.close(theirs)  # the writer's thread sees a broken pipe and ends
    writer.stop()
    os.close(ours)


def test_metrics_are_exposed_as_declared() -> None:
    metrics = Metrics()
    metrics.counter(metric.REQUESTS, ("chat", 'a"\n', "200")).value += 2
    histogram = metrics.histogram(metric.TTFT, ("chat", "m"))
    for value in (0.001, 0.004, 1000.0):
        histogram.observe(value)
    metrics.watch(metric.ACTIVE, lambda: [((), 7)])
    families = {
        family.name: family for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
    }
    requests = families["forebay_requests"].samples[0]
    assert (requests.labels["model"], requests.value) == ('a"\n', 2)
    buckets = {
        s.labels["le"]: s.value for s in families["forebay_time_to_first_token_seconds"].samples if "le" in s.labels
    }
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.005"], buckets["+Inf"]) == (1, 1, 2, 3)
    assert families["forebay_active_requests"].samples[0].value == 7
    declared = {name.name.removesuffix("_total") for name in metric.CATALOGUE}
    assert declared <= set(families)
