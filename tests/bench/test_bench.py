"""The benchmarks measure what they say, tell what failed, and leave nothing behind."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.engine import tokens_in
from bench.fairness import jain
from bench.gateway import read_wrk, refuse_stranger
from bench.hot_path import LESS

from forebay.listening import listen
from tests.gateway.fake_engine import FakeEngine
from tests.processes import alive, descendants, free_port

BENCH = Path(__file__).parents[2] / "bench"

WRK = """\
Running 8s test @ http://127.0.0.1:9101/v1/chat/completions
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.12ms    1.05ms  40.10ms   91.20%
    Req/Sec    19.80k     1.10k   21.00k    75.00%
  Latency Distribution
     50%  950.00us
     75%    3.50ms
     90%    4.10ms
     99%    1.20s
  157690 requests in 8.01s, 50.10MB read
{extra}Requests/sec:  19712.11
Transfer/sec:      6.25MB
"""


@pytest.mark.parametrize(
    ("extra", "failed"),
    [
        ("", 0),
        ("  Non-2xx or 3xx responses: 7\n", 7),
        ("  Socket errors: connect 1, read 20, write 300, timeout 4000\n", 4321),
        ("  Socket errors: connect 0, read 2, write 0, timeout 0\n  Non-2xx or 3xx responses: 5\n", 7),
    ],
)
def test_what_wrk_tells_is_read_failures_included(extra: str, failed: int) -> None:
    load = read_wrk(WRK.format(extra=extra))
    assert (load.requests_s, load.p50_ms, load.p99_ms) == pytest.approx((19712.11, 0.95, 1200.0))
    assert load.failed == failed


def test_a_port_where_somebody_listens_is_refused_by_its_number() -> None:
    with listen("127.0.0.1", 0) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(SystemExit, match=f"port {port} "):
            refuse_stranger(port)
    refuse_stranger(port)


@pytest.mark.skipif(shutil.which("wrk") is None or len(os.sched_getaffinity(0)) < 2, reason="needs wrk and two CPUs")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_that_the_benchmark_started(number: signal.Signals) -> None:
    command = [sys.executable, str(BENCH / "gateway.py"), "--only", "direct", "--seconds", "60"]
    command += ["--engine-port", str(free_port()), "--gateway-port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as benchmark:
        until = time.monotonic() + 30
        while len(family := descendants(benchmark.pid)) < 2 and time.monotonic() < until:  # the engine, and wrk
            time.sleep(0.02)
        assert len(family) == 2
        benchmark.send_signal(number)
        assert benchmark.wait(30) == 128 + number
    while any(alive(pid) for pid in family):  # they are killed, and are gone a little later
        assert time.monotonic() < until + 30, "left behind"
        time.sleep(0.02)


def test_tokens_are_those_of_the_usage_that_comes_last() -> None:
    said = rb'data: {"choices":[{"delta":{"content":"\"completion_tokens\": 99"}}]}'
    assert tokens_in(said + b'data: {"usage":{"completion_tokens": 3}}data: {"usage":{"completion_tokens":41}}') == 41
    with pytest.raises(RuntimeError, match="no usage"):
        tokens_in(said)


async def test_the_engine_benchmark_asks_both_sides_for_usage(tmp_path: Path) -> None:
    async with FakeEngine(uds=str(tmp_path / "e.sock"), tokens=5) as direct, FakeEngine(tokens=7) as through:
        command = [str(BENCH / "engine.py"), direct.url, through.url, "fake-model", "--streams", "2", "--rounds", "1"]
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=subprocess.PIPE)
        told = (await process.communicate())[0].decode()
        assert process.returncode == 0
        assert "through/direct: " in told
        asked = [*direct.requests, *through.requests]
        assert len(asked) == 8  # two streams each, the warm-up's too
        assert all(record.body["stream_options"] == {"include_usage": True} for record in asked)


def test_jains_index_is_1_where_all_have_the_same_and_1_by_their_number_where_one_has_all() -> None:
    assert jain([3.0, 3.0, 3.0]) == 1
    assert jain([0.0, 5.0]) == 0.5


def test_the_hot_path_is_measured_with_and_without_each_policy() -> None:
    command = [sys.executable, str(BENCH / "hot_path.py"), "--rounds", "1", "--requests", "20"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert [line.partition("  ")[0] for line in told] == list(LESS)
    assert all(float(re.findall(r"([\d.]+) µs", line)[0]) > 1 for line in told)
