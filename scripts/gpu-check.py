#!/usr/bin/env python3
"""Check on a machine with an NVIDIA GPU that Forebay's GPU figures are right: PYTHONPATH=src scripts/gpu-check.py

Needs nvidia-ml-py and prometheus-client, nothing else: the load on the GPU is made with the driver's own library.
Prints one line a check, and ends with status 1 where one failed.
"""

import ctypes
import logging
import shutil
import subprocess
import sys
import time
from typing import Any

from prometheus_client.exposition import generate_latest

from forebay.telemetry.gpu import GpuWatch
from forebay.telemetry.metrics import Metrics
from forebay.telemetry.nvml import Nvml

TAKEN_BYTES = 4 * 1024**3
BUSY_S = 6.0
failed = False


def check(what: str, right: bool, told: object) -> None:
    global failed
    failed = failed or not right
    print(f"{'ok   ' if right else 'WRONG'} {what}: {told}")


def main() -> int:
    logging.basicConfig(level="DEBUG", format="      log: %(levelname)s %(name)s %(message)s")
    nvml = Nvml()
    print(f"      driver {nvml.driver()}, CUDA {nvml.cuda()}")
    reporting = nvml.watch_faults()
    check("faults can be listened for", bool(reporting), [gpu.index for gpu in reporting])
    check("asking for faults does not wait", *timed(nvml.faults, 0.1))
    check("all figures are asked for quickly", *timed(nvml.gpus, 0.5))
    gpus = nvml.gpus()
    for gpu in gpus:
        print(f"      {gpu}")
    whole = [gpu for gpu in gpus if not gpu.mig]
    check("each GPU has a name and a temperature", all(g.name and g.temperature_celsius for g in whole), len(whole))
    beside_smi(nvml)
    under_load(nvml)
    watched()
    return int(failed)


def timed(ask: Any, most_s: float) -> tuple[bool, str]:
    before = time.perf_counter()
    ask()
    took = time.perf_counter() - before
    return took < most_s, f"{took * 1000:.1f} ms"


def beside_smi(nvml: Nvml) -> None:
    """What nvidia-smi says of the same moment."""
    if (smi := shutil.which("nvidia-smi")) is None:
        print("      there is no nvidia-smi to compare with")
        return
    query = "index,memory.total,memory.used,temperature.gpu,power.draw,ecc.errors.uncorrected.volatile.total"
    told = subprocess.run(  # noqa: S603
        [smi, f"--query-gpu={query}", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True
    ).stdout
    gpus = {gpu.index: gpu for gpu in nvml.gpus() if not gpu.mig}
    for row in told.strip().splitlines():
        index, total, used, temperature, power, ecc = [cell.strip() for cell in row.split(",")]
        ours = gpus[index]
        if ours.memory_total_bytes is not None:
            check(
                "total memory", abs(int(total) - ours.memory_total_bytes / 2**20) < 2, (total, ours.memory_total_bytes)
            )
            check(
                "used memory",
                abs(int(used) - (ours.memory_used_bytes or 0) / 2**20) < 64,
                (used, ours.memory_used_bytes),
            )
        if ours.temperature_celsius is not None:
            check(
                "temperature",
                abs(int(temperature) - ours.temperature_celsius) <= 3,
                (temperature, ours.temperature_celsius),
            )
        if ours.power_watts is not None:
            check("power", abs(float(power) - ours.power_watts) < 40, (power, ours.power_watts))
        check("ECC errors", not ecc.isdigit() or int(ecc) == ours.ecc_errors, (ecc, ours.ecc_errors))


def under_load(nvml: Nvml) -> None:
    """Take memory of the first GPU and write to it again and again."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, own, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    before = nvml.gpus()[0]
    steps = [
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(own), device),
        cuda.cuCtxSetCurrent(own),
        cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(TAKEN_BYTES)),
    ]
    check("CUDA gives memory", not any(steps), steps)
    most: float = 0.0
    until = time.monotonic() + BUSY_S
    while time.monotonic() < until:
        for _ in range(200):
            cuda.cuMemsetD32_v2(memory, 7, ctypes.c_size_t(TAKEN_BYTES // 4))
        cuda.cuCtxSynchronize()
        most = max(most, nvml.gpus()[0].utilization or 0.0)
    during = nvml.gpus()[0]
    if before.memory_used_bytes is not None and during.memory_used_bytes is not None:
        more = during.memory_used_bytes - before.memory_used_bytes
        check("taken memory is seen", TAKEN_BYTES <= more < TAKEN_BYTES + 2 * 1024**3, more)
    check("work is seen", most > 0.3, most)
    print(f"      power before {before.power_watts}, during {during.power_watts}")
    cuda.cuMemFree_v2(memory)


def watched() -> None:
    """The thread, and what Prometheus reads."""
    metrics, watch = Metrics(), GpuWatch(0.5)
    watch.show_in(metrics)
    watch.start()
    time.sleep(2)
    text = generate_latest(metrics.registry).decode()
    series = [line for line in text.splitlines() if line.startswith("forebay_gpu_")]
    print("\n".join(f"      {line}" for line in series))
    check("there are series", len(series) >= 4, len(series))
    watch.stop()


if __name__ == "__main__":
    sys.exit(main())
