"""How late is the event loop? A task that sleeps a tenth of a second, and counts by how much it was woken too late."""

import asyncio
from time import monotonic

from forebay.telemetry import catalogue as metric
from forebay.telemetry.metrics import Metrics

SLEEP_S = 0.1


async def watch_lag(metrics: Metrics) -> None:
    """Measure for ever."""
    lag = metrics.histogram(metric.LOOP_LAG, ())
    while True:
        due = monotonic() + SLEEP_S
        await asyncio.sleep(SLEEP_S)
        lag.observe(max(monotonic() - due, 0.0))
