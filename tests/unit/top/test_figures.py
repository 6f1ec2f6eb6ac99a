"""Rates and quantiles between two samples of a gateway's metrics."""

import io

import pytest
from rich.console import Console

from forebay.top.figures import quantile, view
from forebay.top.sample import Sample
from forebay.top.screen import draw, seconds

BEFORE = """
# TYPE forebay_requests_total counter
forebay_requests_total{endpoint="chat",model="m",status="200"} 100
forebay_requests_total{endpoint="chat",model="m",status="499"} 1
# TYPE forebay_completion_tokens_total counter
forebay_completion_tokens_total{endpoint="chat",model="m"} 1000
"""
AFTER = """
# TYPE forebay_requests_total counter
forebay_requests_total{endpoint="chat",model="m",status="200"} 120
forebay_requests_total{endpoint="chat",model="m",status="499"} 5
forebay_requests_total{endpoint="completions",model="m",status="429"} 4
forebay_requests_total{endpoint="chat",model="n",status="200"} 2
# TYPE forebay_prompt_tokens_total counter
forebay_prompt_tokens_total{endpoint="chat",model="m"} 50
# TYPE forebay_completion_tokens_total counter
forebay_completion_tokens_total{endpoint="chat",model="m"} 1400
# TYPE forebay_errors_total counter
forebay_errors_total{endpoint="completions",code="rate_limit_exceeded"} 4
forebay_errors_total{endpoint="chat",code="old"} 0
# TYPE forebay_cache_requests_total counter
forebay_cache_requests_total{model="m",result="hit"} 3
forebay_cache_requests_total{model="m",result="miss"} 1
forebay_cache_requests_total{model="m",result="bypass"} 9
# TYPE forebay_queue_requests gauge
forebay_queue_requests{model="m"} 6
# TYPE forebay_queue_running gauge
forebay_queue_running{model="m"} 8
# TYPE forebay_queue_limit gauge
forebay_queue_limit{model="m"} 16
# TYPE forebay_time_to_first_token_seconds histogram
forebay_time_to_first_token_seconds_bucket{endpoint="chat",model="m",le="0.1"} 10
forebay_time_to_first_token_seconds_bucket{endpoint="chat",model="m",le="0.2"} 20
forebay_time_to_first_token_seconds_bucket{endpoint="chat",model="m",le="+Inf"} 20
"""
HEALTH = {
    "status": "ok",
    "version": "1",
    "replicas": [
        {"name": "a", "ready": True, "draining": False, "breaker": "closed", "in_flight": 3, "load_tokens": 9}
        | {"models": ["m"], "why": ""},
        {"name": "b", "ready": False, "draining": False, "breaker": "open", "in_flight": 0, "load_tokens": 0}
        | {"models": [], "why": "no \x1bconnection"},
    ],
}


def test_rates_are_what_was_counted_between_the_two_by_the_time_between_them() -> None:
    found = view(Sample.of(BEFORE, 0.0).values, Sample.of(AFTER, 4.0).values, 4.0)
    one = found.models["m"]
    assert one.requests_per_s == 7.0
    assert one.failed_per_s == 1.0, "a client that left is no failure"
    assert (one.prompt_tokens_per_s, one.completion_tokens_per_s) == (12.5, 100.0)
    assert (one.cache_hits_per_s, one.cache_hit_ratio) == (0.75, 0.75)
    assert (one.running, one.queued, one.limit) == (8, 6, 16)
    assert one.ttft_p50_s == pytest.approx(0.1)
    assert one.ttft_p95_s == pytest.approx(0.19)
    assert found.total.requests_per_s == 7.5
    assert found.errors_per_s == {"rate_limit_exceeded": 1.0}
    assert found.models["n"].ttft_p50_s is None


def test_a_gateway_that_was_started_again_counts_from_its_start() -> None:
    restarted = BEFORE.replace("1000", "30").replace("} 100", "} 8")
    found = view(Sample.of(AFTER, 0.0).values, Sample.of(restarted, 2.0).values, 2.0)
    assert found.models["m"].completion_tokens_per_s == 15.0
    assert found.models["m"].requests_per_s == 4.5


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, {}, None),
        (0.5, {1.0: 0.0, float("inf"): 0.0}, None),
        (0.5, {1.0: 2.0, float("inf"): 2.0}, 0.5),
        (0.5, {1.0: 0.0, 2.0: 4.0, float("inf"): 4.0}, 1.5),
        (0.95, {1.0: 5.0, float("inf"): 10.0}, 1.0),
        (1.0, {1.0: 5.0, 2.0: 5.0, 4.0: 10.0, float("inf"): 10.0}, 4.0),
    ],
)
def test_a_quantile_lies_where_prometheus_has_it(
    share: float, buckets: dict[float, float], expected: float | None
) -> None:
    assert quantile(share, buckets) == expected


def test_a_frame_shows_models_errors_and_replicas_and_no_control_characters() -> None:
    found = view(Sample.of(BEFORE, 0.0).values, Sample.of(AFTER, 4.0).values, 4.0)
    console = Console(file=io.StringIO(), width=200)
    console.print(draw("http://x", found, HEALTH, "no answer"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "8/16" in text
    assert "100 ms" in text
    assert "75% 0.8/s" in text
    assert "rate_limit_exceeded 1.0" in text
    assert "no connection" in text
    assert "no answer" in text
    assert "\x1b" not in text
    assert [line.split()[0] for line in text.splitlines() if line][2:5] == ["m", "n", "all"]


@pytest.mark.parametrize("width", [80, 50])
def test_a_narrow_terminal_shows_fewer_columns_and_every_name(width: int) -> None:
    found = view(Sample.of(BEFORE, 0.0).values, Sample.of(AFTER, 4.0).values, 4.0)
    console = Console(file=io.StringIO(), width=width)
    console.print(draw("http://x", found, HEALTH))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert [line.split()[0] for line in text.splitlines() if line[:2] in ("m ", "n ", "al")] == ["m", "n", "all"]
    assert "req/s" in text
    assert ("failed/s" in text) is (width == 80)
    assert "hits" not in text


def test_times_are_shown_in_the_unit_that_suits_them() -> None:
    assert (seconds(None), seconds(0.0123), seconds(12.34)) == ("–", "12 ms", "12.3 s")


GPUS = """\
# TYPE forebay_gpu_utilization_ratio gauge
forebay_gpu_utilization_ratio{gpu="0",mig="",name="NVIDIA H200"} 0.37
# TYPE forebay_gpu_memory_used_bytes gauge
forebay_gpu_memory_used_bytes{gpu="0",mig="",name="NVIDIA H200"} 75161927680
forebay_gpu_memory_used_bytes{gpu="1",mig="2",name="H200 MIG 1g.18gb"} 1073741824
# TYPE forebay_gpu_memory_total_bytes gauge
forebay_gpu_memory_total_bytes{gpu="0",mig="",name="NVIDIA H200"} 150323855360
forebay_gpu_memory_total_bytes{gpu="1",mig="2",name="H200 MIG 1g.18gb"} 19327352832
# TYPE forebay_gpu_power_watts gauge
forebay_gpu_power_watts{gpu="0",mig="",name="NVIDIA H200"} 350.5
# TYPE forebay_gpu_ecc_errors_total counter
forebay_gpu_ecc_errors_total{gpu="0",mig="",name="NVIDIA H200"} 2
# TYPE forebay_gpu_xid_errors_total counter
forebay_gpu_xid_errors_total{gpu="0",mig="",name="NVIDIA H200"} 1
"""


def test_gpus_are_shown_with_what_they_tell_where_there_are_any() -> None:
    found = view(Sample.of(GPUS, 0.0).values, Sample.of(GPUS, 1.0).values, 1.0)
    console = Console(file=io.StringIO(), width=120)
    console.print(draw("http://x", found, HEALTH))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line.split() for line in text.splitlines() if line.startswith(("0 ", "1.2 "))]
    assert [" ".join(row) for row in rows] == [
        "0 37% 70.0/140 GiB – 350 W 3 NVIDIA H200",
        "1.2 – 1.0/18 GiB – – 0 H200 MIG 1g.18gb",
    ]
    assert view({}, {}, 1.0).gpus == ()
