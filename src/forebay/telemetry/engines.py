"""What is shown of the engines that this process supervises, whichever role it has."""

from collections.abc import Sequence
from typing import Any, Protocol

from forebay.telemetry import catalogue as metric
from forebay.telemetry.metrics import Metrics


class EngineView(Protocol):
    """An engine as operators see it."""

    @property
    def name(self) -> str: ...
    @property
    def command(self) -> Sequence[str]: ...
    @property
    def restarts(self) -> int: ...
    @property
    def oom_events(self) -> int: ...
    @property
    def warmup_s(self) -> float | None: ...
    @property
    def warmup_cache_warm(self) -> bool | None: ...
    def describe(self) -> dict[str, Any]: ...
    def states(self) -> dict[str, bool]: ...


def watch_engines(metrics: Metrics, engines: Sequence[EngineView]) -> None:
    """Read the engines' figures at each scrape; `engines` may grow afterwards."""
    metrics.watch(metric.ENGINE_RESTARTS, lambda: [((e.name,), e.restarts) for e in engines])
    metrics.watch(metric.ENGINE_OOM, lambda: [((e.name,), e.oom_events) for e in engines])
    metrics.watch(
        metric.ENGINE_STATE, lambda: [((e.name, state), now) for e in engines for state, now in e.states().items()]
    )
    metrics.watch(metric.WARMUP, lambda: [((e.name,), e.warmup_s) for e in engines if e.warmup_s is not None])
    metrics.watch(
        metric.WARMUP_CACHE_WARM,
        lambda: [((e.name,), e.warmup_cache_warm) for e in engines if e.warmup_cache_warm is not None],
    )
