"""The page against the real engine: sign in, a streamed chat, and charts that have seen it."""

import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.e2e.conftest import ADMIN_KEY, KEY, MODEL, Service
from tests.page.browser import chromium, opened, sign_in

pytestmark = pytest.mark.engine


async def test_a_chat_in_the_page_is_answered_by_the_real_engine_and_moves_its_charts(
    service: Service, tmp_path: Path
) -> None:
    async with chromium(tmp_path) as browser, opened(browser, service.url) as seen:
        page = seen.page
        await sign_in(seen, ADMIN_KEY)
        await expect(page.locator("#status")).to_have_text("ok")
        await expect(page.get_by_role("table", name="Engines")).to_contain_text("ready")
        await page.get_by_role("link", name="Playground").click()
        await sign_in(seen, KEY)
        await expect(page.get_by_label("Model", exact=True).locator(f"option[value='{MODEL}']")).to_have_count(1)
        await page.get_by_label("Model", exact=True).select_option(MODEL)
        await page.get_by_label("Preset").select_option("deterministic")
        await page.get_by_label("Most tokens").fill("32")
        await page.get_by_label("Message", exact=True).fill("What is the capital of France?")
        await page.keyboard.press("Enter")
        answer = page.locator("article.assistant")
        await expect(answer).to_have_attribute("aria-busy", "false", timeout=60_000)
        await expect(answer.locator(".text")).to_contain_text("Paris")
        await expect(answer.locator(".about")).to_contain_text(re.compile(r"\d+ prompt tokens.*tokens/s"))
        await page.get_by_role("link", name="Overview").click()
        chart = page.locator("figure", has_text="Tokens a second").locator("svg[role=img]")
        await expect(chart).to_have_attribute("aria-label", re.compile(r"generated: .*, [1-9][\d.]* at most"))
        assert seen.is_clean()
