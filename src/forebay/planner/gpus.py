"""The devices that plans are made for: what each has, and what vLLM can use on it.

`memory_gib` is what PyTorch reports as the device's total, as in "GPU 0 has a total capacity of 79.11 GiB" (vLLM issue
27508), which is less than the name says; the lowest figure seen is taken. Bandwidth, links and compute capability are
those of NVIDIA's data sheets. `chunk_tokens` is vLLM's own default for a server on that device (0.32,
`engine/arg_utils.py`, `get_batch_defaults`): 8,192 from 70 GiB, 16,384 from 160 GiB, else and on an A100 2,048.
"""

from dataclasses import dataclass

BF16 = (8, 0)
FLASH_ATTENTION_2 = (8, 0)
FLASH_ATTENTION_3 = (9, 0)
FP8 = (8, 9)


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or the CPU, which has no compute capability."""

    name: str
    memory_gib: float
    bandwidth_gb_s: int
    capability: tuple[int, int]
    nvlink: bool = False
    chunk_tokens: int = 2048
    source: str = ""

    @property
    def is_cpu(self) -> bool:
        """Whether this is no GPU."""
        return self.capability == (0, 0)

    @property
    def has_bf16(self) -> bool:
        """vLLM 0.32, platforms/cuda.py: bfloat16 from 8.0."""
        return self.is_cpu or self.capability >= BF16

    @property
    def has_fp8(self) -> bool:
        """Arithmetic in FP8: Ada, Hopper and later."""
        return self.capability >= FP8

    @property
    def marks(self) -> str:
        """What it has, in words."""
        version = ".".join(map(str, self.capability))
        flash = (
            "FlashAttention 3"
            if self.capability[:1] == (9,)
            else "FlashAttention 2"
            if self.has_flash_attention
            else ""
        )
        had = [f"compute capability {version}", "bf16" if self.has_bf16 else "no bf16", "FP8" if self.has_fp8 else ""]
        return ", ".join(mark for mark in (*had, flash, "NVLink" if self.nvlink else "PCIe") if mark)

    @property
    def has_flash_attention(self) -> bool:
        """vLLM 0.32, v1/attention/backends/flash_attn.py: from 8.0."""
        return self.capability >= FLASH_ATTENTION_2


DEVICES = (
    Device("T4", 14.56, 320, (7, 5), source="NVIDIA T4 data sheet; total capacity in DeepSeek-R1 issue 546: 14.57"),
    Device("V100-16GB", 15.77, 900, (7, 0), True, source="NVIDIA V100 data sheet (SXM2); 16,160 MiB"),
    Device("V100-32GB", 31.73, 900, (7, 0), True, source="NVIDIA V100 data sheet (SXM2); 32,510 MiB"),
    Device("A10G", 21.98, 600, (8, 6), source="NVIDIA A10 data sheet; AWS g5, 23,028 MiB"),
    Device("L4", 21.95, 300, (8, 9), source="NVIDIA L4 data sheet; 23,034 MiB (TensorRT-LLM issue 2398)"),
    Device("L40S", 44.39, 864, (8, 9), source="NVIDIA L40S data sheet; 46,068 MiB"),
    Device("A100-40GB", 39.38, 1555, (8, 0), True, source="NVIDIA A100 data sheet; 39.39 to 39.56 GiB seen"),
    Device("A100-80GB", 79.14, 2039, (8, 0), True, source="NVIDIA A100 data sheet (SXM)"),
    Device("H100", 79.11, 3350, (9, 0), True, 8192, source="NVIDIA H100 data sheet (SXM); 79.11 in vLLM issue 27508"),
    Device("H200", 139.7, 4800, (9, 0), True, 8192, source="NVIDIA H200 data sheet; 143,771 MiB"),
    Device("B200", 178.3, 8000, (10, 0), True, 16384, source="NVIDIA HGX B200 data sheet; 183,359 MiB"),
)
# Memory of a CPU is this machine's, or what the user says; its bandwidth is not known.
CPU = Device("CPU", 0.0, 0, (0, 0), source="the machine's own memory")
_OTHER_NAMES = {
    "H100-80GB": "H100",
    "H200-141GB": "H200",
    "B200-180GB": "B200",
    "V100": "V100-16GB",
    "A10": "A10G",
    "T4-16GB": "T4",
    "L4-24GB": "L4",
    "L40S-48GB": "L40S",
    "A10G-24GB": "A10G",
}


class UnknownDevice(Exception):
    """No such device; the message names those there are."""


def device_named(name: str) -> Device:
    """The device that a user names, upper or lower case. Raises `UnknownDevice`."""
    wanted = name.strip().upper().replace("_", "-").replace(" ", "-").removeprefix("NVIDIA-").removeprefix("TESLA-")
    wanted = _OTHER_NAMES.get(wanted, wanted)
    known = {device.name: device for device in (*DEVICES, CPU)}
    if wanted in known:
        return known[wanted]
    alike = [one for one in known if one.startswith(wanted)] if wanted else []
    raise UnknownDevice(f"unknown GPU '{name}'; name one of {', '.join(alike or known)}")
