"""NVIDIA's driver, asked by way of its library (NVML): what GPUs there are, and what each of them does. I/O.

What a GPU does not tell, because it cannot or the driver does not let us see it, is None, and costs no other figure.
Calls take as long as the driver likes, so an event loop makes none. The bindings (nvidia-ml-py) are loaded only where
the library is: they are large.

A GPU that is divided (MIG) is told of as a whole, less its memory, and each part as one more: parts tell of their
memory alone, and the sum over all counts nothing twice.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
MOST_EVENTS = 100  # taken at once
MAX_NAME = 80


class NoDriver(Exception):
    """The driver cannot be asked. `installed`: its library is here, so that it may come (back)."""

    def __init__(self, why: str, *, installed: bool) -> None:
        super().__init__(why)
        self.installed = installed


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one part of it: then `mig` is the part's number, which else is empty. None is what is not told."""

    index: str
    mig: str
    name: str
    uuid: str | None = None
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    ecc_errors: int | None = None
    capability: tuple[int, int] | None = None

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.index, self.mig, self.name


class Nvml:
    """The library, initialised. Raises `NoDriver`, as all of its methods but `close` do."""

    def __init__(self) -> None:
        try:
            ctypes.CDLL(LIBRARY)
        except OSError as failure:
            raise NoDriver(str(failure), installed=False) from None
        import pynvml

        self._lib: Any = pynvml
        with self._telling():
            pynvml.nvmlInit()
        self._events: Any = None
        self._reporting: dict[int | None, Gpu] = {}  # the GPUs that report faults, by their handle

    def close(self) -> None:
        with contextlib.suppress(self._lib.NVMLError):
            if self._events is not None:
                self._lib.nvmlEventSetFree(self._events)
        with contextlib.suppress(self._lib.NVMLError):
            self._lib.nvmlShutdown()

    def driver(self) -> str | None:
        """The driver's version."""
        told: str | None = self._ask("nvmlSystemGetDriverVersion")
        return told

    def cuda(self) -> tuple[int, int] | None:
        """The newest CUDA that the driver takes."""
        told: int | None = self._ask("nvmlSystemGetCudaDriverVersion_v2")
        return (told // 1000, told % 1000 // 10) if told else None

    def gpus(self, *, whole: bool = False) -> list[Gpu]:
        """All GPUs, with their figures of now; `whole` asks for no parts of any."""
        return [
            gpu
            for index, device in self._devices()
            for gpu in ([self._whole(index, device, divided=False)] if whole else self._all_of(index, device))
        ]

    def watch_faults(self) -> list[Gpu]:
        """Begin to listen for Xid errors. Returns the GPUs that report them."""
        xid = self._lib.nvmlEventTypeXidCriticalError
        self._events = self._ask("nvmlEventSetCreate")
        for index, device in self._devices() if self._events is not None else ():
            if (self._ask("nvmlDeviceGetSupportedEventTypes", device) or 0) & xid:
                with contextlib.suppress(self._lib.NVMLError):
                    self._lib.nvmlDeviceRegisterEvents(device, xid, self._events)
                    self._reporting[_address(device)] = self._named(index, device)
        return list(self._reporting.values())

    def faults(self) -> list[tuple[Gpu, int]]:
        """The Xid errors since the last call: each one's GPU and number."""
        found: list[tuple[Gpu, int]] = []
        for _ in range(MOST_EVENTS if self._reporting else 0):
            if (event := self._ask("nvmlEventSetWait_v2", self._events, 0)) is None:
                break
            if (gpu := self._reporting.get(_address(event.device))) is not None:
                found.append((gpu, event.eventData))
        return found

    def _devices(self) -> Iterator[tuple[int, Any]]:
        with self._telling():
            count = self._lib.nvmlDeviceGetCount()
        for index in range(count):
            if (device := self._ask("nvmlDeviceGetHandleByIndex", index)) is not None:
                yield index, device

    def _all_of(self, index: int, device: Any) -> Iterator[Gpu]:
        parts = list(self._parts(device))
        yield self._whole(index, device, divided=bool(parts))
        for number, part in parts:
            used, total = self._memory(part)
            name, uuid = self._name(part), self._ask("nvmlDeviceGetUUID", part)
            yield Gpu(str(index), str(number), name, uuid, memory_used_bytes=used, memory_total_bytes=total)

    def _parts(self, device: Any) -> Iterator[tuple[int, Any]]:
        mode = self._ask("nvmlDeviceGetMigMode", device)
        if mode is not None and mode[0] == self._lib.NVML_DEVICE_MIG_ENABLE:
            for number in range(self._ask("nvmlDeviceGetMaxMigDeviceCount", device) or 0):
                if (part := self._ask("nvmlDeviceGetMigDeviceHandleByIndex", device, number)) is not None:
                    yield number, part

    def _whole(self, index: int, device: Any, *, divided: bool) -> Gpu:
        lib, ask = self._lib, self._ask
        busy = ask("nvmlDeviceGetUtilizationRates", device)
        power_mw = ask("nvmlDeviceGetPowerUsage", device)
        used, total = (None, None) if divided else self._memory(device)
        return Gpu(
            str(index),
            "",
            self._name(device),
            ask("nvmlDeviceGetUUID", device),
            utilization=busy.gpu / 100 if busy is not None else None,
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=ask("nvmlDeviceGetTemperature", device, lib.NVML_TEMPERATURE_GPU),
            power_watts=power_mw / 1000 if power_mw is not None else None,
            ecc_errors=ask(
                "nvmlDeviceGetTotalEccErrors", device, lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, lib.NVML_VOLATILE_ECC
            ),
            capability=ask("nvmlDeviceGetCudaComputeCapability", device),
        )

    def _memory(self, device: Any) -> tuple[int | None, int | None]:
        """Used and total. Older drivers count what they keep for themselves as used."""
        memory = self._ask("nvmlDeviceGetMemoryInfo", device, self._lib.nvmlMemory_v2)
        if memory is None:
            memory = self._ask("nvmlDeviceGetMemoryInfo", device)
        return (memory.used, memory.total) if memory is not None else (None, None)

    def _named(self, index: int, device: Any) -> Gpu:
        return Gpu(str(index), "", self._name(device))

    def _name(self, device: Any) -> str:
        name = self._ask("nvmlDeviceGetName", device) or "unknown"
        return "".join(one for one in name if one.isprintable())[:MAX_NAME]

    def _ask(self, question: str, *about: Any) -> Any:
        """An answer, None where there is none for this GPU. Raises `NoDriver` where there is none for any."""
        ask: Callable[..., Any] = getattr(self._lib, question)
        try:
            return ask(*about)
        except self._lib.NVMLError as failure:
            if failure.value in self._fatal:
                raise self._no_driver(failure) from None
            return None

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except self._lib.NVMLError as failure:
            raise self._no_driver(failure) from None

    @property
    def _fatal(self) -> tuple[int, ...]:
        lib = self._lib
        return (
            lib.NVML_ERROR_UNINITIALIZED,
            lib.NVML_ERROR_DRIVER_NOT_LOADED,
            lib.NVML_ERROR_LIBRARY_NOT_FOUND,
            lib.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        )

    @staticmethod
    def _no_driver(failure: Exception) -> NoDriver:
        return NoDriver(str(failure), installed=True)


def _address(device: Any) -> int | None:
    return ctypes.cast(device, ctypes.c_void_p).value
