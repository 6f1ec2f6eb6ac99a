"""The GPUs' figures, asked for by a thread every few seconds and kept for whoever wants to read them.

Where the driver's library is not, the thread ends and there are no series. Where the driver goes, the figures go with
it at once, and it is asked for again now and then. A call that hangs takes the thread with it and nothing else: figures
that were not renewed in time are shown no longer.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from time import monotonic
from typing import Any

from forebay.telemetry import catalogue as metric
from forebay.telemetry.metrics import Labels, Metrics
from forebay.telemetry.nvml import Gpu, NoDriver, Nvml

log = logging.getLogger("forebay.gpu")

ASK_AGAIN_S = 30.0
STALE_AFTER = 3  # intervals
LEAST_STALE_S = 15.0
_GAUGES: dict[metric.Metric, Callable[[Gpu], float | None]] = {
    metric.GPU_UTILIZATION: lambda gpu: gpu.utilization,
    metric.GPU_MEMORY_USED: lambda gpu: gpu.memory_used_bytes,
    metric.GPU_MEMORY_TOTAL: lambda gpu: gpu.memory_total_bytes,
    metric.GPU_TEMPERATURE: lambda gpu: gpu.temperature_celsius,
    metric.GPU_POWER: lambda gpu: gpu.power_watts,
    metric.GPU_ECC_ERRORS: lambda gpu: gpu.ecc_errors,
}


class GpuWatch:
    """Asks every `interval_s` seconds from `start` to `stop`; 0 asks never."""

    def __init__(self, interval_s: float, ask_again_s: float = ASK_AGAIN_S) -> None:
        self._interval_s = interval_s
        self._ask_again_s = ask_again_s
        self._gpus: list[Gpu] = []
        self._as_of = 0.0
        self._faults: dict[Labels, int] = {}  # since the start, of GPUs that report them
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-watch", daemon=True)

    def __repr__(self) -> str:
        return f"<GpuWatch {len(self.gpus)} GPUs>"

    def start(self) -> None:
        if self._interval_s:
            self._thread.start()

    def stop(self) -> None:
        """Have it end. It is not waited for: a driver may hang."""
        self._ending.set()

    @property
    def gpus(self) -> list[Gpu]:
        """As they are now; none where there are none, or nobody tells any longer."""
        fresh = monotonic() - self._as_of <= max(STALE_AFTER * self._interval_s, LEAST_STALE_S)
        return self._gpus if fresh else []

    def describe(self) -> list[dict[str, Any]]:
        """For operators: each GPU, and how many faults it has reported."""
        return [{**asdict(gpu), "xid_errors": self._faults.get(gpu.labels)} for gpu in self.gpus]

    def show_in(self, metrics: Metrics) -> None:
        """Have metrics read the figures at each scrape."""
        for one, figure in _GAUGES.items():
            metrics.watch(one, self._samples(figure))
        metrics.watch(metric.GPU_XID_ERRORS, lambda: [*self._faults.copy().items()])

    def _samples(self, figure: Callable[[Gpu], float | None]) -> Callable[[], Iterator[tuple[Labels, float]]]:
        return lambda: ((gpu.labels, value) for gpu in self.gpus if (value := figure(gpu)) is not None)

    # In the thread
    def _run(self) -> None:
        asked = False
        while not self._ending.is_set():
            try:
                self._follow(Nvml(), again=asked)
            except NoDriver as why:
                self._gpus = []
                if not asked:
                    log.debug("no GPU is watched", extra={"why": str(why)})
                if not why.installed:
                    return
            asked = True
            self._ending.wait(self._ask_again_s)

    def _follow(self, nvml: Nvml, *, again: bool) -> None:
        """Ask until the end, or until the driver is gone."""
        try:
            for gpu in nvml.watch_faults():
                self._faults.setdefault(gpu.labels, 0)
            self._keep(nvml.gpus())
            log.log(logging.INFO if again else logging.DEBUG, "GPUs are watched", extra={"gpus": len(self._gpus)})
            while not self._ending.wait(self._interval_s):
                for gpu, number in nvml.faults():
                    self._faults[gpu.labels] += 1
                    log.warning(
                        "a GPU reports a fault", extra={"gpu": gpu.index, "model_name": gpu.name, "xid": number}
                    )
                self._keep(nvml.gpus())
        except NoDriver as why:
            self._gpus = []
            log.warning("the GPUs' driver is gone; it is asked for again", extra={"why": str(why)})
        finally:
            nvml.close()

    def _keep(self, gpus: list[Gpu]) -> None:
        telling, before = _telling(gpus), _telling(self._gpus)
        for labels in before - telling:
            log.warning("a GPU tells nothing any more", extra={"gpu": labels[0], "mig": labels[1]})
        self._gpus, self._as_of = gpus, monotonic()


def _telling(gpus: list[Gpu]) -> set[Labels]:
    """Those that tell any figure."""
    return {gpu.labels for gpu in gpus if any(figure(gpu) is not None for figure in _GAUGES.values())}
