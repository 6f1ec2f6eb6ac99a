"""The facts of this machine that checks judge: files, limits, nvidia-smi, clocks. I/O, and no judgement."""

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from forebay.doctor.gpus import QUERY, Smi, cuda_of, read_gpus
from forebay.doctor.machine import Space, flags_of

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


def ask_smi() -> Smi:
    """What nvidia-smi says."""
    if (program := shutil.which("nvidia-smi")) is None:
        return Smi(installed=False)
    try:
        listed = _run(program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits")
        return Smi(installed=True, gpus=read_gpus(listed), cuda=cuda_of(_run(program)))
    except subprocess.CalledProcessError as failed:
        lines = (failed.stdout + failed.stderr).split("\n")
        return Smi(installed=True, problem=lines[0].strip()[:300] or f"status {failed.returncode}")
    except (OSError, subprocess.TimeoutExpired, ValueError) as failure:
        return Smi(installed=True, problem=str(failure)[:300])


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=WITHIN_S).stdout  # noqa: S603
