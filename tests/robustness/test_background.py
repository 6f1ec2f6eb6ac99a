"""Hostile settings and faults of our own do not end what runs in the background (findings 12, rows B13 and I8)."""

import asyncio
from pathlib import Path

import pytest

from forebay.background import Background
from forebay.config.settings import Settings
from forebay.config.sources import Loader, SettingsError, load_settings
from forebay.gateway.reloading import Reloading
from tests.gateway.calls import AUTH, CHAT, chat_body
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch

TOO_LONG = f"max_n = {'1' * 5000}\n"


@pytest.mark.parametrize("text", [TOO_LONG, f"max_n = 0x{'f' * 5000}\n", f"max_n = {'[' * 5000}\n"])
def test_a_number_or_nesting_beyond_all_bounds_is_refused_by_the_files_name(tmp_path: Path, text: str) -> None:
    """F0.12: Python itself refuses integers of more than 4300 digits, with a plain ValueError."""
    file = tmp_path / "forebay.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=str(file)):
        load_settings({}, {}, file)


def test_so_are_those_of_the_environment() -> None:
    """F0.12."""
    for name, text in (("FOREBAY_MAX_N", "1" * 5000), ("FOREBAY_MODELS", "[" * 200_000)):
        with pytest.raises(SettingsError, match=name.removeprefix("FOREBAY_").lower()):
            load_settings({}, {name: text})


async def test_after_a_file_with_a_number_beyond_all_bounds_the_next_one_is_followed(
    tmp_path: Path, start_gateway: StartGateway
) -> None:
    """B13, F0.12: the last good settings are kept, and the watch lives on."""
    file = tmp_path / "forebay.toml"
    file.write_text("max_n = 2\n")
    async with FakeEngine() as engine, start_gateway(engine.url, max_n=2) as running:
        gateway = running.gateway

        def load() -> Settings:
            flags = {"upstream": (engine.url,), "api_keys": (KEY,), "port": 0, "health_interval_s": 0.2}
            flags |= {"drain_timeout_s": 5.0, "usage_spool_dir": tmp_path / "spool", "routing": "least_outstanding"}
            return load_settings(flags, {}, file)[0]

        reloading = gateway.reloading = Reloading(gateway, Loader(load, file), look_every_s=0.02)
        gateway.background.start("settings file", reloading.watch)
        async with asyncio.timeout(20):
            file.write_text(TOO_LONG)
            while not reloading.why:
                await asyncio.sleep(0.01)
            assert "too long" in reloading.why
            assert gateway.settings.max_n == 2
            assert (await fetch(running.url, "POST", CHAT, chat_body(), **AUTH)).status == 200
            file.write_text("max_n = 3\n")
            while gateway.settings.max_n != 3:
                await asyncio.sleep(0.01)
        assert not any(gateway.background.failures.values())


async def test_a_fault_of_ours_while_settings_are_read_is_told_and_changes_nothing(start_gateway: StartGateway) -> None:
    """B13: whatever goes wrong, the reload has failed, and the next one may succeed."""
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        settings, wrong = running.gateway.settings, [KeyError("bug")]

        def load() -> Settings:
            if wrong:
                raise wrong.pop()
            return settings

        reloading = Reloading(running.gateway, Loader(load, None))
        assert not await reloading.reload()
        assert (reloading.counts, running.gateway.settings) == ({"ok": 0, "failed": 1}, settings)
        assert await reloading.reload()
        assert reloading.why == ""


async def test_a_background_task_that_fails_is_started_again_and_counted(start_gateway: StartGateway) -> None:
    """I8: here what keeps time, without which no deadline is kept and no answer has a date."""
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        gateway = running.gateway
        sweep, broken = gateway.pipeline.sweep, 2

        def fail_twice(now: float) -> None:
            nonlocal broken
            if broken:
                broken -= 1
                raise RuntimeError("bug")
            sweep(now)
            gateway.date_line = gateway.date_line.replace(b"GMT", b"UTC")

        gateway.pipeline.sweep = fail_twice  # type: ignore[method-assign]
        async with asyncio.timeout(20):
            while b"UTC" not in gateway.date_line:
                await asyncio.sleep(0.01)
        assert running.figures()['forebay_background_failures_total{task="time"}'] == 2
        assert (await fetch(running.url, "POST", CHAT, chat_body(), **AUTH)).status == 200
    told = [line for line in running.log_lines() if line["message"].startswith("a background task failed")]
    assert [line["task"] for line in told] == ["time", "time"]


async def test_a_task_that_is_over_or_cancelled_is_not_started_again() -> None:
    """I8, the other way round."""
    background, runs = Background(), []

    async def once() -> None:
        runs.append("once")

    async def for_ever() -> None:
        runs.append("for ever")
        await asyncio.Event().wait()

    await background.start("once", once)
    background.start("for ever", for_ever)
    await asyncio.sleep(0)
    await background.stop()
    assert runs == ["once", "for ever"]
    assert not any(background.failures.values())
