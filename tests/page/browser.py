"""A real Chromium, and an open page of it whose faults are written down as they happen."""

import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from tests.programs import TOOLS, program

ROOT = TOOLS.parents[1]
MACHINE = f"{platform.machine()}-linux-gnu"
LIBRARIES = (f"usr/lib/{MACHINE}", f"lib/{MACHINE}", f"usr/lib/{MACHINE}/pulseaudio")
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{root}/usr/share/fonts</dir><dir>/usr/share/fonts</dir><cachedir>{cache}</cachedir></fontconfig>"""
AUDIT = (Path(__file__).parent / "audit.js").read_text()
# What is said of a file that no page has: a browser writes every answer of 400 or more into its console.
ANSWERED = "Failed to load resource: the server responded with a status of"


@dataclass
class Seen:
    """A page, and what was seen of it beside what it shows."""

    page: Page
    problems: list[str] = field(default_factory=list)  # errors of the console, exceptions, violations of the policy
    elsewhere: list[str] = field(default_factory=list)  # requests to other places than the gateway

    def wrote(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(ANSWERED):
            self.problems.append(message.text)

    def threw(self, error: Any) -> None:
        self.problems.append(str(error))

    def asked(self, request: Request, host: str) -> None:
        if urlsplit(request.url).netloc != host and not request.url.startswith("data:"):
            self.elsewhere.append(request.url)

    def is_clean(self) -> bool:
        assert self.problems == []
        assert self.elsewhere == []
        return True


@asynccontextmanager
async def chromium(home: Path) -> AsyncIterator[Browser]:
    """The one that `scripts/install-tools.sh` unpacked, with libraries and fonts that this machine lacks."""
    unpacked = ROOT / "usr/lib/chromium/chromium"  # the program itself: the script beside it knows only /usr/lib
    executable = str(unpacked) if unpacked.exists() else program("chromium")
    fonts = home / "fonts.conf"
    fonts.write_text(FONTS.format(root=ROOT, cache=home / "fonts"))
    libraries = ":".join([*(str(ROOT / one) for one in LIBRARIES), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":")
    env = {**os.environ, "HOME": str(home), "LD_LIBRARY_PATH": libraries, "FONTCONFIG_FILE": str(fonts)}
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=flags, env=env)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(browser: Browser, url: str, path: str = "/ui", **options: Any) -> AsyncIterator[Seen]:
    """A page of its own, without anything kept from another."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = await context.new_page()
    page.set_default_timeout(20_000)
    seen, host = Seen(page), urlsplit(url).netloc
    page.on("console", seen.wrote)
    page.on("pageerror", seen.threw)
    page.on("request", lambda request: seen.asked(request, host))
    await page.goto(url + path)
    try:
        yield seen
    finally:
        await context.close()


async def sign_in(seen: Seen, key: str) -> None:
    await seen.page.get_by_label("API key").fill(key)
    await seen.page.get_by_role("button", name="Sign in").click()
