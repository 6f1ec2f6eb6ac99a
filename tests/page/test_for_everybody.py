"""The page for those who use a keyboard, a screen reader, a small screen, dark or light: every element is looked at."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect
from pydantic import SecretStr

from forebay.store.keys import Keys
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.page.browser import AUDIT, opened, sign_in
from tests.store.databases import made, new_key

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADMIN = "sk-admin"
VIEWS = ("Overview", "Keys", "Usage", "Settings", "Playground")


async def test_every_view_can_be_read_by_everybody(
    browser: Browser, start_gateway: StartGateway, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/forebay.db"
    both = new_key(Keys(made(url)), scopes=("inference", "admin"), name="for both", models=("fake-model",))[1]
    flags: dict[str, Any] = {"database_url": SecretStr(url), "default_rate_limit": None}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        async with opened(browser, running.url) as seen:
            page = seen.page
            await expect(page.get_by_label("API key")).to_be_visible()
            assert await page.evaluate(AUDIT) == []
            await sign_in(seen, both)
            await expect(page.locator("#states table")).to_be_visible()
            running.gateway.replicas.replicas[0].ready = False  # what is wrong is seen in other colours
            for view in VIEWS:
                await page.get_by_role("link", name=view, exact=True).click()
                section = page.locator(f"#{view.lower()}")
                await expect(section.locator("table, textarea").first).to_be_visible()
                await page.evaluate(
                    "() => { for (const one of document.querySelectorAll('details')) one.open = true; }"
                )
                if view == "Playground":
                    await page.get_by_label("Message", exact=True).fill("hello")
                    await page.keyboard.press("Enter")
                    await expect(page.locator("article.assistant .about")).to_contain_text("tokens")
                for width in (1280, 360):
                    await page.set_viewport_size({"width": width, "height": 800})
                    for scheme in ("light", "dark"):
                        await page.locator("#theme").select_option(scheme)
                        assert await page.evaluate(AUDIT) == [], f"{view}, {width} wide, {scheme}"
            assert seen.is_clean()


async def focused(page: Page) -> str:
    """What has the keyboard, by its name; it must be seen to have it."""
    name, outline = await page.evaluate(
        """() => {
          const one = document.activeElement, label = one.labels?.[0]?.textContent.trim();
          const name = label || one.getAttribute("aria-label") || one.textContent.trim();
          return [name, getComputedStyle(one).outlineStyle];
        }"""
    )
    assert outline != "none", f"nobody sees that {name} has the keyboard"
    return str(name)


async def tab_to(page: Page, name: str) -> None:
    for _ in range(40):
        await page.keyboard.press("Tab")
        if (await focused(page)).startswith(name):
            return
    raise AssertionError(f"the keyboard does not get to {name}")


async def test_a_keyboard_is_enough(browser: Browser, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=(ADMIN,)) as running:
        async with opened(browser, running.url) as seen:
            page = seen.page
            await expect(page.get_by_label("API key")).to_be_focused()
            await page.keyboard.type(ADMIN)
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
            await page.locator("body").focus()
            await page.evaluate("() => document.activeElement.blur()")
            await tab_to(page, "Show")
            await page.evaluate("() => document.activeElement.blur()")
            await page.reload()
            await expect(page.locator("#tiles .tile").first).to_be_visible()
            await page.keyboard.press("Tab")
            assert await focused(page) == "Skip to the content"
            await page.keyboard.press("Enter")
            await expect(page.locator("#main")).to_be_focused()
            await tab_to(page, "Table of Requests a second")
            await page.keyboard.press("Enter")
            await expect(page.locator("figure").first.locator("table")).to_be_visible()
            await page.goto(running.url + "/ui#settings")
            await expect(page.get_by_role("heading", name="Settings")).to_be_visible()
            await page.get_by_role("link", name="Skip to the content").focus()
            await page.keyboard.press("Enter")
            await expect(page.locator("#main")).to_be_focused()
            await expect(page.get_by_role("heading", name="Settings")).to_be_visible()
            await page.goto(running.url + "/ui")
            await expect(page.locator("#tiles .tile").first).to_be_visible()
            await tab_to(page, "Playground")
            await page.keyboard.press("Enter")
            await expect(page.get_by_label("API key")).to_be_focused()
            await page.keyboard.type(KEY)
            await page.keyboard.press("Enter")
            await expect(page.get_by_label("Model", exact=True)).to_have_value("fake-model")
            await tab_to(page, "Message")
            await page.keyboard.type("hello")
            await page.keyboard.press("Enter")
            await expect(page.locator("#said")).to_contain_text("Answered: ")
            await tab_to(page, "Clear")
            await page.keyboard.press("Enter")
            await expect(page.locator("article")).to_have_count(0)
            assert seen.is_clean()


async def test_a_theme_that_is_chosen_stays(browser: Browser, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with opened(browser, running.url, color_scheme="light") as seen:
            ground = "() => getComputedStyle(document.body).backgroundColor"
            light = await seen.page.evaluate(ground)
            await seen.page.get_by_label("Theme").select_option("dark")
            dark = await seen.page.evaluate(ground)
            await seen.page.reload()
            assert await seen.page.evaluate(ground) == dark != light
            await seen.page.get_by_label("Theme").select_option("")
            assert await seen.page.evaluate(ground) == light
            await seen.page.emulate_media(color_scheme="dark")
            assert await seen.page.evaluate(ground) == dark
