from collections.abc import Iterator

import pytest

from forebay.store.database import Database
from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway
from tests.store.databases import made

__all__ = ["pytest_asyncio_loop_factories", "start_gateway"]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database of either kind, ready for use."""
    database = made(database_url)
    yield database
    database.close()
