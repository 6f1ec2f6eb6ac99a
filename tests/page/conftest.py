from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from playwright.async_api import Browser

from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway
from tests.page.browser import chromium

__all__ = ["pytest_asyncio_loop_factories", "start_gateway"]


@pytest_asyncio.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    home = tmp_path / "browser"
    home.mkdir()
    async with chromium(home) as one:
        yield one
