from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway
from tests.page.browser import chromium

__all__ = ["pytest_asyncio_loop_factories", "start_gateway"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """One for all tests, which have one event loop therefore; each has pages and a session of its own."""
    expect.set_options(timeout=20_000)  # a guard against hanging, not a bar: machines are busy
    async with chromium(tmp_path_factory.mktemp("browser")) as one:
        yield one
