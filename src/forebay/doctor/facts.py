"""The facts of this machine that checks judge: files, limits, GPUs, clocks. I/O, and no judgement."""

import contextlib
import os
import resource
import shutil
import stat
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from forebay.doctor.gpus import Driver, Gpu
from forebay.doctor.machine import Space, flags_of
from forebay.telemetry.nvml import NoDriver, Nvml

SHM, CPUINFO, PCI = Path("/dev/shm"), Path("/proc/cpuinfo"), Path("/sys/bus/pci/devices")  # noqa: S108
NVIDIA, DISPLAY = "0x10de", "0x03"
WITHIN_S = 30.0
LOOK_S = 0.05


def shared_memory_bytes(path: Path = SHM) -> int | None:
    """How much it may hold; None where there is none."""
    try:
        return shutil.disk_usage(path).total
    except OSError:
        return None


def most_open_files() -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if most != resource.RLIM_INFINITY else 2**31


def cpu_flags() -> frozenset[str]:
    """What the processor can do; nothing where the system does not tell."""
    try:
        return flags_of(CPUINFO.read_text())
    except OSError:
        return frozenset()


def space_at(path: Path) -> Space:
    """The file system that a path is on, or will be once its directories are made."""
    there = Path(os.path.expanduser(path)).absolute()
    while not os.path.exists(there) and there != there.parent:  # False, too, where one may not look
        there = there.parent
    directory = there if there.is_dir() else there.parent
    writable = os.access(directory, os.W_OK | os.X_OK)
    return Space(str(path), shutil.disk_usage(directory).free, writable)


def hub_home(env: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps models and its token."""
    cache = Path(env.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.path.expanduser(env.get("HF_HOME") or cache / "huggingface"))


def hub_token(env: Mapping[str, str]) -> tuple[str | None, str, bool]:
    """The token, where it is, and whether others may read it there."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := env.get(name):
            return token, name, False
    path = Path(os.path.expanduser(env.get("HF_TOKEN_PATH") or hub_home(env) / "token"))
    try:
        token, mode = path.read_text(errors="replace").strip(), path.stat().st_mode
    except OSError:
        return None, "", False
    return token or None, str(path), bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def clock_step_s() -> float:
    """How far the wall clock and the monotonic one move apart while one looks."""
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(LOOK_S)
    return (time.time() - wall) - (time.monotonic() - monotonic)


def has_nvidia_card(devices: Path = PCI) -> bool:
    """Whether the machine has a GPU of NVIDIA's, driver or not."""
    with contextlib.suppress(OSError):
        for device in devices.iterdir():
            with contextlib.suppress(OSError):
                vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
                if vendor.strip() == NVIDIA and kind.startswith(DISPLAY):
                    return True
    return False


def ask_driver(within_s: float = WITHIN_S) -> Driver:
    """What NVIDIA's driver says; one that hangs is not waited for."""
    said: list[Driver] = []
    asking = threading.Thread(target=lambda: said.append(_driver()), daemon=True)
    asking.start()
    asking.join(within_s)
    return said[0] if said else Driver(installed=True, problem=f"no answer within {within_s:g} s")


def _driver() -> Driver:
    try:
        nvml = Nvml()
    except NoDriver as why:
        return Driver(why.installed, problem=str(why) if why.installed else "")
    try:
        gpus = tuple(
            Gpu(one.index, one.name, one.memory_total_bytes, one.memory_used_bytes, one.capability)
            for one in nvml.gpus(whole=True)
        )
        return Driver(True, nvml.driver() or "of an unknown version", gpus, nvml.cuda())
    except NoDriver as why:
        return Driver(True, problem=str(why))
    finally:
        nvml.close()
