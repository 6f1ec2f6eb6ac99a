"""`forebay bench` as its users run it: a process of its own, against an engine with known token times."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine

DELAY_S = 0.02


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(tokens=6, token_delay_s=DELAY_S) as engine:
        yield engine
        assert not engine.violations


async def bench(*words: str, key: str | None = None) -> Process:
    program = "from forebay.cli.main import main; main()"
    kept = {name: value for name, value in os.environ.items() if name != "FOREBAY_API_KEY"}
    env = kept | ({"FOREBAY_API_KEY": key} if key else {})
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "bench", *words, stdout=PIPE, stderr=PIPE, env=env
    )


async def ended(process: Process) -> tuple[int, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_throughput_reports_the_same_to_people_programs_and_a_browser(engine: FakeEngine, tmp_path: Path) -> None:
    page, figures = tmp_path / "report.html", tmp_path / "report.json"
    words = [
        "--concurrency",
        "4",
        "--requests",
        "20",
        "--warmup",
        "4",
        "--slo",
        "ttft:1000",
        "--output-tokens",
        "6",
        "--detailed",
    ]
    process = await bench("throughput", engine.url, *words, "--html", str(page), "--json", str(figures))
    status, out, err = await ended(process)
    assert (status, err) == (0, "")
    told: dict[str, Any] = json.loads(figures.read_text())
    summary = told["summary"]
    assert (summary["completed"], summary["failed"], len(told["requests"])) == (20, 0, 20)
    assert summary["output_tokens"] == 20 * 6
    assert all(len(one["itl_s"]) == 5 for one in told["requests"])
    most = 4 / (6 * DELAY_S)  # fewer where this machine is busy
    assert 0.5 * most < summary["requests_per_s"] < 1.1 * most
    assert summary["itl_s"]["median"] == pytest.approx(DELAY_S, abs=DELAY_S / 2)
    assert summary["goodput_per_s"] == summary["requests_per_s"]
    assert f"{summary['requests_per_s']:.2f} requests/s" in out
    assert re.search(rf"ITL.* {summary['itl_s']['median'] * 1000:.2f} ", out)
    assert f"{summary['ttft_s']['p99'] * 1000:.2f}" in page.read_text()
    asked = engine.calls("/v1/chat/completions")[-1].body
    assert asked["ignore_eos"] is True
    assert asked["stream_options"] == {"include_usage": True}


async def test_latency_through_a_gateway_takes_a_key_and_prints_json(
    engine: FakeEngine, start_gateway: StartGateway
) -> None:
    async with start_gateway(engine.url) as running:
        words = ["--rate", "50", "--arrivals", "fixed", "--requests", "20", "--json", "-"]
        refused = await ended(await bench("latency", running.url, *words))
        status, out, _ = await ended(await bench("latency", running.url, *words, key=KEY))
    assert refused[0] == 1
    assert "set FOREBAY_API_KEY" in refused[2]
    assert status == 0
    told = json.loads(out)
    assert told["summary"]["completed"] == 20
    sent = sorted(one["sent_s"] for one in told["requests"])
    assert median(abs(at - number / 50) for number, at in enumerate(sent)) < 0.05


async def test_ctrl_c_reports_what_was_done(engine: FakeEngine, tmp_path: Path) -> None:
    figures = tmp_path / "report.json"
    words = ["--concurrency", "2", "--requests", "100000", "--warmup", "0", "--json", str(figures)]
    process = await bench("throughput", engine.url, *words)
    await engine.wait_for(lambda e: sum(r.outcome == "finished" for r in e.calls("/v1/chat/completions")) >= 5)
    process.send_signal(signal.SIGINT)
    status, out, err = await ended(process)
    assert (status, err) == (130, "")
    assert "Interrupted" in out
    told = json.loads(figures.read_text())
    assert told["stopped"] is True
    assert told["summary"]["completed"] >= 5
    assert (told["summary"]["failed"], told["summary"]["cut"]) == (0, 2)


async def test_sweep_finds_the_rate_that_the_engine_can_take(engine: FakeEngine, tmp_path: Path) -> None:
    engine.default = lambda record: Behaviour(head_delay_s=0.0 if engine.running < 3 else 1.0)  # a fourth is too many
    figures = tmp_path / "sweep.json"
    words = ["--slo", "e2e:500", "--start-rate", "4", "--duration", "1.5", "--arrivals", "fixed", "--precision", "0.3"]
    status, out, _ = await ended(await bench("sweep", engine.url, *words, "--json", str(figures)))
    assert status == 0
    told = json.loads(figures.read_text())
    limit = 3 / (6 * DELAY_S)  # at 25 requests/s three are under way
    rate = max(trial["rate"] for trial in told["trials"] if trial["met"])
    assert limit / 4 < rate < limit * 1.2  # less where this machine is too busy to ask so often
    assert min(trial["rate"] for trial in told["trials"] if not trial["met"]) / rate <= 1.3
    assert told["proposal"]["max_concurrency"] in (2, 3, 4)
    assert f"engine_concurrency = {told['proposal']['max_concurrency']} " in out


async def test_failures_are_told_and_where_nothing_succeeded_so_does_the_status(engine: FakeEngine) -> None:
    engine.on("/v1/chat/completions", Behaviour(status=500))
    status, out, err = await ended(await bench("latency", engine.url, "--requests", "3"))
    assert status == 1
    assert "3 x status 500: Scripted failure." in out
    assert "no request succeeded" in err


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["latency", "http://127.0.0.1:1"], 1, "is the server running there?"),
        (["latency", "ftp://host"], 2, "url:"),
        (["latency", "http://127.0.0.1:1", "--slo", "speed:3"], 2, "such as ttft:500"),
        (["latency", "http://127.0.0.1:1", "--extra", "[1]"], 2, "not a JSON object"),
        (["sweep", "http://127.0.0.1:1"], 2, "--slo ttft:1000"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(words: list[str], status: int, told: str) -> None:
    found, _, err = await ended(await bench(*words))
    assert found == status
    assert told in err
    assert len(err.splitlines()) == 1


async def test_a_load_in_stages_ends_with_0_where_the_server_held_and_with_1_where_not(engine: FakeEngine) -> None:
    words = ("--stage", "1s:20", "--stage", "1s:20", "--stage", "1s:0", "--warmup", "1", "--output-tokens", "6")
    limits = ("--threshold", "failed:0%", "--threshold", "ttft_p95:1000")
    status, out, err = await ended(await bench("stages", engine.url, *words, *limits))
    assert (status, err.count(": met")) == (0, 2), err
    assert "40 of 40 requests" in out

    engine.default = Behaviour(status=500)
    engine.script(*[Behaviour()] * 20)
    status, out, err = await ended(await bench("stages", engine.url, *words, *limits))
    assert status == 1
    assert re.search(r"failed: \d+\.\d\d%, at most 0.00%: not met", err)
    assert "ttft_p95: " in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stage", "fast"], "'fast' is not such as 30s:10"),
        (["--stage", "1s:1", "--threshold", "x"], "'x' is not such as"),
    ],
)
async def test_a_stage_or_threshold_that_is_none_is_one_line(engine: FakeEngine, words: list[str], told: str) -> None:
    status, _, err = await ended(await bench("stages", engine.url, *words))
    assert (status, len(err.splitlines())) == (2, 1)
    assert told in err
