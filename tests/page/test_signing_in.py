"""Who gets in, with which key, and where that key is: in the tab's session memory and nowhere else."""

from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.page.browser import Seen, opened, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADMIN = "sk-admin-canary-4711"


async def places_of(seen: Seen, key: str) -> list[str]:
    """Where a key can be read in a page."""
    found: dict[str, Any] = await seen.page.evaluate(
        """() => ({
          address: location.href, title: document.title, markup: document.documentElement.outerHTML,
          local: JSON.stringify({...localStorage}), session: JSON.stringify({...sessionStorage}),
          cookies: document.cookie,
          fields: [...document.querySelectorAll("input, textarea")].map((field) => field.value).join(" "),
          history: JSON.stringify(history.state),
        })"""
    )
    return [name for name, text in found.items() if key in str(text)]


async def test_a_wrong_key_is_told_and_a_right_one_opens_what_it_may(
    browser: Browser, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=(ADMIN,)) as running:
        async with opened(browser, running.url) as seen:
            page, failed = seen.page, seen.page.locator("#sign-in-failed")
            await expect(page.get_by_label("API key")).to_be_focused()
            await expect(page.locator("#views")).to_be_hidden()
            await sign_in(seen, "sk-wrong")
            await expect(failed).to_have_text("The gateway does not know this key.")
            await sign_in(seen, "no key ☃")
            await expect(failed).to_contain_text("no spaces")
            assert await places_of(seen, "sk-wrong") == []
            await sign_in(seen, ADMIN)
            await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
            await expect(page.locator("#status")).to_have_text("ok")
            assert await places_of(seen, ADMIN) == ["session"]
            await page.reload()
            await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
            await page.get_by_role("link", name="Playground").click()  # which takes the other scope
            await expect(page.locator("#sign-in-why")).to_contain_text("inference")
            await sign_in(seen, KEY)
            await expect(page.get_by_label("Model", exact=True)).to_have_value("fake-model")
            assert await places_of(seen, KEY) == ["session"]
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_label("API key")).to_be_visible()
            assert await places_of(seen, ADMIN) + await places_of(seen, KEY) == []
            assert seen.is_clean()


async def test_a_key_that_is_revoked_signs_its_page_out(browser: Browser, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=(ADMIN,)) as running:
        async with opened(browser, running.url) as seen:
            await sign_in(seen, ADMIN)
            await expect(seen.page.get_by_role("heading", name="Overview")).to_be_visible()
            running.gateway.pipeline.auth._fixed.clear()
            await expect(seen.page.locator("#sign-in-failed")).to_contain_text("not accepted any more")
            assert await places_of(seen, ADMIN) == []
            assert seen.is_clean()


async def test_where_nobody_is_asked_for_a_key_the_playground_is_open(
    browser: Browser, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=()) as running:
        async with opened(browser, running.url) as seen:
            await expect(seen.page.get_by_label("Model", exact=True)).to_have_value("fake-model")
            await seen.page.get_by_role("link", name="Overview").click()
            await expect(seen.page.locator("#sign-in-why")).to_contain_text("admin")
            assert seen.is_clean()
