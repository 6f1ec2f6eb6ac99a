"""Charts and tables: they move under load, tell of gaps, and show what others wrote as text and nothing else."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Route, expect
from pydantic import SecretStr

from forebay.store.keys import Keys
from forebay.top.figures import quantile
from tests.gateway.calls import CHAT, chat_body
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import fetch
from tests.page.browser import AUDIT, Seen, opened, sign_in
from tests.store.databases import made, new_key

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADMIN = "sk-admin"
LIVE = "**/admin/v1/live"
HOSTILE = '<img src=x onerror="window.hacked=1">&lt;"\''


@asynccontextmanager
async def load(url: str, *models: str) -> AsyncIterator[None]:
    """Clients that ask for each of the models, again and again."""

    async def client(model: str) -> None:
        while True:
            body = chat_body(model=model, stream=True)
            with suppress(OSError, EOFError):
                await fetch(url, "POST", CHAT, body, authorization=f"Bearer {KEY}")
            await asyncio.sleep(0.05)

    clients = [asyncio.create_task(client(model)) for model in models]
    try:
        yield
    finally:
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def tile(seen: Seen, name: str) -> Any:
    return seen.page.locator(".tile", has_text=name).locator("dd")


async def test_the_charts_move_under_load_and_a_time_without_answers_is_a_gap(
    browser: Browser, start_gateway: StartGateway
) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url, admin_keys=(ADMIN,)) as running:
        async with opened(browser, running.url) as seen, load(running.url, "fake-model", "fake-model", "no-model"):
            page = seen.page
            await page.clock.install()
            await page.clock.pause_at(await page.evaluate("() => Date.now() + 60_000"))
            await sign_in(seen, ADMIN)
            for name in ("requests/s", "failed/s", "tokens/s", "TTFT p95", "between tokens p95"):
                await expect(tile(seen, name)).to_have_text("–")
            await page.clock.resume()
            for name in ("requests/s", "failed/s", "tokens/s", "TTFT p95", "between tokens p95"):
                await expect(tile(seen, name)).to_have_text(_number())
            chart = page.locator("figure", has_text="Tokens a second").locator("svg[role=img]")
            await expect(chart.locator("path.s0")).to_have_count(1)  # two points and more: a line
            drawn = await chart.locator("path.s0").get_attribute("d")
            await expect(chart.locator("path.s0")).not_to_have_attribute("d", drawn or "")
            assert "generated:" in (await chart.get_attribute("aria-label") or "")
            errors = page.locator("figure", has_text="Errors a second")
            await expect(errors.locator(".legend")).to_contain_text("model_not_found")
            await errors.get_by_text("Table").click()
            await expect(errors.locator("tbody tr").first).to_contain_text(_number())
            await expect(page.locator("#states").get_by_role("table", name="Replicas")).to_contain_text("ready")
            assert seen.is_clean()

            await page.route(LIVE, lambda route: route.abort())
            await expect(page.locator("#status")).to_contain_text("not reachable since")
            await expect(tile(seen, "requests/s")).to_have_text("–")
            await page.unroute(LIVE)
            await expect(page.locator("#status")).to_have_text("ok")
            await expect(chart.locator("path.s0")).to_have_count(2)  # the line is in two
            assert all("net::ERR_FAILED" in problem for problem in seen.problems)
            assert seen.elsewhere == []


def _number() -> Any:
    return re.compile(r"^[\d.]+( m?s| k)?$|[1-9]")


async def test_nobody_is_asked_while_nobody_looks(browser: Browser, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=(ADMIN,)) as running:
        async with opened(browser, running.url) as seen:
            clock = seen.page.clock
            await clock.install(time=0)
            await clock.pause_at(1)
            await sign_in(seen, ADMIN)
            await expect(tile(seen, "requests/s")).to_have_text("–")  # one reading
            asked: list[str] = []
            seen.page.on("request", lambda request: asked.append(request.url))
            async with seen.page.expect_response(LIVE):
                await clock.run_for(2000)
            await expect(tile(seen, "requests/s")).not_to_have_text("–")
            assert sum("/live" in one for one in asked) == 1
            await seen.page.evaluate(
                """() => {
                  Object.defineProperty(document, "hidden", {configurable: true, get: () => window.away});
                  window.away = true;
                  document.dispatchEvent(new Event("visibilitychange"));
                }"""
            )
            await clock.run_for(60_000)
            async with seen.page.expect_response(LIVE):
                await seen.page.evaluate(
                    "() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')); }"
                )
            assert sum("/live" in one for one in asked) == 2
            assert seen.is_clean()


async def test_quantiles_are_those_of_forebay_top(browser: Browser, start_gateway: StartGateway) -> None:
    draw = random.Random(4711)
    bounds = [0.01, 0.1, 0.5, 1.0, 5.0]
    cases = []
    for _ in range(60):
        steps = [draw.choice((0, 0, draw.randrange(50))) for _ in range(len(bounds) + 1)]
        cases.append((draw.choice((0.5, 0.95, 0.99)), [sum(steps[: place + 1]) for place in range(len(steps))]))
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with opened(browser, running.url) as seen:
            told = await seen.page.evaluate(
                """async ([bounds, cases]) => {
                  const { quantile } = await import("/ui/figures.js");
                  const none = { bounds, counts: bounds.map(() => 0).concat(0) };
                  return cases.map(([share, counts]) => quantile(share, none, { bounds, counts }));
                }""",
                [bounds, cases],
            )
    for (share, counts), value in zip(cases, told, strict=True):
        expected = quantile(share, dict(zip([*bounds, float("inf")], map(float, counts), strict=True)))
        assert value == expected or (value is not None and abs(value - (expected or 0)) < 1e-9)


async def test_what_others_wrote_is_shown_as_text(
    browser: Browser, start_gateway: StartGateway, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/forebay.db"
    store = Keys(made(url))
    new_key(store, tenant="acme", name=HOSTILE)
    flags: dict[str, Any] = {
        "database_url": SecretStr(url),
        "admin_keys": (ADMIN, KEY),
        "model_aliases": {HOSTILE: "*"},
    }
    request = {
        **dict.fromkeys(("request_id", "endpoint", "model", "tenant", "key_id", "error", "replica"), HOSTILE),
        "time": 1,
        "status": 500,
        "outcome": HOSTILE,
        "duration_ms": 1,
        "ttft_ms": None,
        "attempts": 1,
        "takeovers": 0,
    }
    story = {**request, "steps": [{"at_ms": 1.5, "what": HOSTILE, "detail": {"why": HOSTILE}}], "verdict": HOSTILE}

    async def answer(route: Route) -> None:
        told = {"data": [request]} if "?" in route.request.url else story
        await route.fulfill(body=json.dumps(told), content_type="application/json")

    async with FakeEngine(models=[HOSTILE]) as engine, start_gateway(engine.url, **flags) as running:
        async with opened(browser, running.url) as seen:
            page = seen.page
            await page.route("**/admin/v1/requests**", answer)
            await page.route("**/admin/v1/requests/**", answer)
            await sign_in(seen, ADMIN)
            running.gateway.replicas.replicas[0].ready = False
            running.gateway.replicas.replicas[0].why = HOSTILE
            await expect(page.locator("#states")).to_contain_text(HOSTILE)
            for link in ("Keys", "Requests", "Usage", "Settings"):
                await page.get_by_role("link", name=link, exact=True).click()
                section = page.locator(f"#{link.lower()}")
                await expect(section.locator("table").first).to_be_visible()
                if link != "Usage":
                    shown = HOSTILE if link != "Settings" else "<img src=x onerror="  # there, in JSON
                    await expect(section).to_contain_text(shown)
                if link == "Requests":
                    await section.get_by_role("link", name=HOSTILE).click()
                    await expect(page.locator("#request-story")).to_contain_text(f"why: {HOSTILE}")
            assert await page.evaluate("() => [window.hacked, document.querySelectorAll('main img').length]") == [
                None,
                0,
            ]
            assert seen.is_clean()


async def test_gpus_engines_and_degraded_limits_are_shown_where_there_are_any(
    browser: Browser, start_gateway: StartGateway
) -> None:
    gpu = {"name": "NVIDIA H200", "utilization_ratio": 0.87, "memory_used_bytes": 2**36, "memory_total_bytes": 2**37}
    gpu |= {"temperature_celsius": 61, "power_watts": 412.5, "ecc_errors_total": 0, "xid_errors_total": 2}
    engine_view = {"name": "engine-1", "model": "m", "state": "backoff", "since": 1.7e9, "why": "exited with status 1"}
    engine_view |= {"restarts": 3, "out_of_memory_events": 1, "warmup_s": 12.5}

    async def answer(route: Route) -> None:
        fetched = await route.fetch()
        if not fetched.ok:  # before somebody has signed in
            await route.fulfill(response=fetched)
            return
        told = await fetched.json()
        told |= {"gpus": [{"gpu": "0", **gpu}, {"gpu": "1", "mig": "2", **gpu, "utilization_ratio": 0.1}]}
        told |= {"engines": [engine_view], "limits_degraded": True}
        await route.fulfill(json=told)

    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=(ADMIN,)) as running:
        async with opened(browser, running.url) as seen:
            await seen.page.route(LIVE, answer)
            await sign_in(seen, ADMIN)
            gpus = seen.page.get_by_role("table", name="GPUs")
            await expect(gpus.get_by_role("row")).to_have_count(3)
            for text in ("1/2", "87 %", "64 GiB of 128 GiB", "61 °C", "413 W"):
                await expect(gpus).to_contain_text(text)
            engines = seen.page.get_by_role("table", name="Engines")
            await expect(engines).to_contain_text("backoff")
            await expect(engines).to_contain_text("exited with status 1")
            await expect(seen.page.locator("#states .notice")).to_contain_text("Limits are degraded")
            busy = seen.page.locator("figure", has_text="GPU busy")
            await expect(busy.locator(".legend")).to_contain_text("1/2 10 %")
            assert await seen.page.evaluate(AUDIT) == []
            assert seen.is_clean()


async def test_recent_requests_are_not_offered_where_none_are_kept(
    browser: Browser, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=(ADMIN,)) as running:
        async with opened(browser, running.url) as seen:
            await seen.page.route("**/admin/v1/requests**", lambda route: route.fulfill(status=404, body="{}"))
            await sign_in(seen, ADMIN)
            await expect(seen.page.get_by_role("link", name="Keys")).to_be_visible()
            await expect(seen.page.get_by_role("link", name="Requests")).to_be_hidden()
            await seen.page.get_by_role("link", name="Keys").click()  # no database: told, not thrown
            await expect(seen.page.locator("#notice")).to_contain_text("not kept in a database")
            assert seen.is_clean()
