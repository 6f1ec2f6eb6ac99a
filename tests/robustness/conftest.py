"""The gateway and its loop as in tests/gateway, for the rows of the matrix in docs/reliability.md."""

from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway
from tests.servers import cut_postgres, database_url, postgres, postgres_server

__all__ = [
    "cut_postgres",
    "database_url",
    "postgres",
    "postgres_server",
    "pytest_asyncio_loop_factories",
    "start_gateway",
]
