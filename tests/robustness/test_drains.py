"""B14: a drain loses nothing, and neither does a reload (`make bench-drains` tries it fifty times)."""

import pytest
from bench.drains import measure


@pytest.mark.robustness
@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["socket", "polling"])
async def test_drains_and_reloads_under_load_fail_no_request(way: str) -> None:
    result = await measure(way, times=3, signals=1)
    assert result.misses(3) == []
    assert result.ends["answered"] > 100
