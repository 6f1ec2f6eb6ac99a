from collections.abc import Iterator

import pytest

from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway
from tests.servers import ValkeyServer

__all__ = ["pytest_asyncio_loop_factories", "start_gateway", "valkey"]


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.close()
