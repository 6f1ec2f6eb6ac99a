"""GPUs' figures: all that their driver tells and nothing else, whatever becomes of it."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.exposition import generate_latest

from forebay.doctor.facts import ask_driver
from forebay.doctor.gpus import Gpu
from forebay.telemetry.gpu import GpuWatch
from forebay.telemetry.metrics import Metrics
from forebay.top.figures import view
from forebay.top.sample import Sample
from tests.gateway.calls import AUTH
from tests.gateway.command import gateway_process
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch
from tests.gateway.test_agent import StartAgent, start_agent
from tests.gpu.conftest import FakeDriver

__all__ = ["start_agent"]  # a fixture
H200 = '{gpu="0",mig="",name="NVIDIA H200"}'
T4 = '{gpu="1",mig="",name="Tesla T4"}'


def figures(metrics: Metrics) -> dict[str, float]:
    """The GPUs' series, less what all their names begin with."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {
        (pair := line.rsplit(" ", 1))[0].removeprefix("forebay_gpu_"): float(pair[1])
        for line in lines
        if line.startswith("forebay_gpu_") and "_created" not in line
    }


@contextmanager
def watching() -> Iterator[Metrics]:
    metrics, watch = Metrics(), GpuWatch(0.01, ask_again_s=0.01)
    watch.show_in(metrics)
    watch.start()
    try:
        yield metrics
    finally:
        watch.stop()
        watch._thread.join(30)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_each_gpu_has_the_figures_that_it_tells_and_no_other(driver: FakeDriver) -> None:
    driver.change(gpu0_power="!999")
    with watching() as metrics:
        until(lambda: len(figures(metrics)) >= 10)
        assert figures(metrics) == {
            f"utilization_ratio{H200}": 0.37,
            f"memory_used_bytes{H200}": 1000,
            f"memory_total_bytes{H200}": 5000,
            f"temperature_celsius{H200}": 61,
            f"ecc_errors_total{H200}": 2,
            f"xid_errors_total{H200}": 0,
            f"utilization_ratio{T4}": 0,
            f"memory_used_bytes{T4}": 10,
            f"memory_total_bytes{T4}": 20,
            f"xid_errors_total{T4}": 0,
        }
        driver.change(gpu0_power="350500")
        until(lambda: figures(metrics).get(f"power_watts{H200}") == 350.5)


def test_the_parts_of_a_divided_gpu_tell_of_their_memory_and_it_of_the_rest(driver: FakeDriver) -> None:
    driver.change(gpu0_parts="7", gpu0_utilization=None, gpu1_handle="!4")
    driver.lines |= {"0.2.name": "NVIDIA H200 MIG 1g.18gb", "0.2.used_v2": "7", "0.2.total": "9"}
    driver.change()
    with watching() as metrics:
        part = '{gpu="0",mig="2",name="NVIDIA H200 MIG 1g.18gb"}'
        until(lambda: f"memory_used_bytes{part}" in figures(metrics))
        assert figures(metrics) == {
            f"memory_used_bytes{part}": 7,
            f"memory_total_bytes{part}": 9,
            f"temperature_celsius{H200}": 61,
            f"power_watts{H200}": 350.5,
            f"ecc_errors_total{H200}": 2,
            f"xid_errors_total{H200}": 0,
        }


def test_faults_are_counted_and_told_once_each(driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    with watching() as metrics:
        until(lambda: f"xid_errors_total{H200}" in figures(metrics))
        driver.change(xid_1="79", xid_2="1031", xid_3="48")
        until(lambda: figures(metrics)[f"xid_errors_total{H200}"] == 2)
        assert figures(metrics)[f"xid_errors_total{T4}"] == 1
    told = [record.__dict__ for record in caplog.records if record.message == "a GPU reports a fault"]
    assert [(one["gpu"], one["xid"]) for one in told] == [("0", 79), ("1", 31), ("0", 48)]


def test_a_lost_gpu_takes_its_own_figures_with_it(driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    with watching() as metrics:
        until(lambda: f"temperature_celsius{H200}" in figures(metrics))
        driver.change(gpu0_handle="!15")
        until(lambda: f"temperature_celsius{H200}" not in figures(metrics))
        assert f"utilization_ratio{T4}" in figures(metrics)
    assert [r.__dict__["gpu"] for r in caplog.records if r.message == "a GPU tells nothing any more"] == ["0"]


def test_a_driver_that_goes_takes_all_figures_with_it_and_may_come_back(
    driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "forebay.gpu")
    with watching() as metrics:
        until(lambda: f"temperature_celsius{H200}" in figures(metrics))
        driver.change(init="!9")
        until(lambda: set(figures(metrics)) == {f"xid_errors_total{H200}", f"xid_errors_total{T4}"})
        driver.change(init=None)
        until(lambda: f"temperature_celsius{H200}" in figures(metrics))
    told = [record.message for record in caplog.records]
    assert told == ["the GPUs' driver is gone; it is asked for again", "GPUs are watched"]


def test_a_driver_that_is_not_loaded_yet_is_waited_for_quietly(
    driver: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.change(init="!9")
    caplog.set_level(logging.DEBUG, "forebay.gpu")
    with watching() as metrics:
        until(lambda: bool(caplog.records))
        assert figures(metrics) == {}
        driver.change(init=None)
        until(lambda: f"temperature_celsius{H200}" in figures(metrics))
    assert [r.levelname for r in caplog.records if r.message == "no GPU is watched"] == ["DEBUG"]


def test_without_a_driver_there_are_no_series_one_debug_line_and_no_bindings_loaded() -> None:
    """In a process of its own: this one may have the library."""
    program = """
import logging, sys
logging.basicConfig(level="DEBUG", format="%(levelname)s %(message)s")
from forebay.telemetry.gpu import GpuWatch
watch = GpuWatch(0.01)
watch.start()
watch._thread.join(30)
print(watch.gpus, watch._thread.is_alive(), "pynvml" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] False False\n", "DEBUG no GPU is watched\n")


def test_figures_of_a_driver_that_hangs_are_shown_no_longer(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebay.telemetry.gpu.LEAST_STALE_S", 0.0)
    metrics, watch = Metrics(), GpuWatch(0.05)
    watch.show_in(metrics)
    watch.start()
    until(lambda: f"temperature_celsius{H200}" in figures(metrics))
    watch.stop()  # as far as others can tell, a thread that hangs is one that has ended
    until(lambda: set(figures(metrics)) == {f"xid_errors_total{H200}", f"xid_errors_total{T4}"})


def test_the_doctor_asks_the_same_driver(driver: FakeDriver) -> None:
    found = ask_driver()
    assert (found.version, found.cuda, found.problem) == ("570.124.06", (12, 8), "")
    assert found.gpus == (Gpu("0", "NVIDIA H200", 5000, 1000, (9, 0)), Gpu("1", "Tesla T4", 20, 10, None))
    driver.change(init="!9")
    assert (found := ask_driver()).problem == "Driver Not Loaded"
    assert found.installed


async def test_a_gateway_shows_them_in_metrics_to_administrators_and_in_top(driver: FakeDriver) -> None:
    driver.change(xid_1="79")
    flags, env = ("--gpu-interval-s", "0.05"), {**driver.env, "ADMIN_KEYS": "sk-admin"}
    async with FakeEngine() as engine, gateway_process(engine.url, *flags, **env) as (_, url):
        async with asyncio.timeout(20):
            while f"forebay_gpu_xid_errors_total{H200} 1.0" not in (
                text := (await fetch(url, "GET", "/metrics", b"", **AUTH)).body.decode()
            ):
                await asyncio.sleep(0.02)
        admin = {"authorization": "Bearer sk-admin"}
        told = (await fetch(url, "GET", "/debug/runtime", **admin)).json()["gpus"]
    assert [(one["uuid"], one["xid_errors"]) for one in told] == [("GPU-aaaa", 1), ("GPU-bbbb", 0)]
    values = Sample.of(text, 0.0).values
    first, second = view(values, values, 1.0).gpus
    assert (first.name, first.model, first.utilization, first.faults) == ("0", "NVIDIA H200", 0.37, 3)
    assert (second.power_watts, second.memory_total_bytes) == (None, 20)


async def test_an_agent_shows_them_too(driver: FakeDriver, start_agent: StartAgent) -> None:
    async with start_agent("--gpu-interval-s", "0.05", **driver.env) as agent, asyncio.timeout(30):
        while (await agent.figures()).get(f"forebay_gpu_power_watts{H200}") != 350.5:
            await asyncio.sleep(0.02)
        driver.change(init="!9")
        while f"forebay_gpu_power_watts{H200}" in await agent.figures():
            await asyncio.sleep(0.02)


async def test_none_are_looked_at_where_that_is_not_wanted(driver: FakeDriver, start_agent: StartAgent) -> None:
    async with start_agent("--gpu-interval-s", "0", **driver.env) as agent:
        await agent.until_ready()
        assert not any(name.startswith("forebay_gpu_") for name in await agent.figures())
