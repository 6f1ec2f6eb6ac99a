"""The gateway and its loop as in tests/gateway, for the rows of the matrix in docs/reliability.md."""

from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway

__all__ = ["pytest_asyncio_loop_factories", "start_gateway"]
