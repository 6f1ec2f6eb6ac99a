from collections.abc import Iterator

import pytest

from forebay.store.database import Database
from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway
from tests.servers import ValkeyServer, cut_postgres, database_url, postgres, postgres_server
from tests.store.databases import made

__all__ = [
    "cut_postgres",
    "database_url",
    "postgres",
    "postgres_server",
    "pytest_asyncio_loop_factories",
    "start_gateway",
    "valkey",
    "valkey_server",
]


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.close()


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """A Valkey server with nothing in it."""
    valkey_server.client.flushall()
    return valkey_server


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database of either kind, ready for use."""
    database = made(database_url)
    yield database
    database.close()
