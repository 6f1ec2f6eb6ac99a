"""Limits as they are judged: many callers on one key all the time, one gateway and then two that share their counts."""

import pytest
from bench.limits import measure


@pytest.mark.parametrize(("gateways", "kind"), [(1, "tokens"), (2, "requests")])
async def test_as_much_passes_as_the_limit_says(gateways: int, kind: str) -> None:
    assert await measure(gateways, kind, 5)
