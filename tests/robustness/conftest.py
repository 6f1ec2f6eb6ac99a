"""The gateway and its loop as in tests/gateway, for the rows of the matrix in docs/reliability.md."""

import gc
from collections.abc import Iterator

import pytest

from tests.gateway.conftest import pytest_asyncio_loop_factories, start_gateway

__all__ = ["pytest_asyncio_loop_factories", "start_gateway"]


@pytest.fixture(autouse=True, scope="module")
def nothing_old_to_collect() -> Iterator[None]:
    """What the tests before left is not looked through while this module measures how long the loop is held up."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
