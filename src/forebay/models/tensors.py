"""The headers of safetensors files → how many parameters a model has, and how many bytes they take.

A file starts with the length of its header, 8 bytes, and the header, JSON: for each tensor its type, its shape and
where its bytes are. Nothing but headers is read. A quantised weight is packed, several numbers in one integer, with
scales and zero points beside it that are no parameters of the model; what is counted is what was trained.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
INDEX = "model.safetensors.index.json"

_PACKED = (".qweight", ".weight_packed", "_blocks", "_packed")
_FLOATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
# What stands beside the weights: of quantisation, and tables that are computed.
_BESIDE = (
    "scales",
    "scale",
    "scale_inv",
    "scale_2",
    "qzeros",
    "zeros",
    "g_idx",
    "weight_shape",
    "weight_format",
    "zero_point",
    "absmax",
    "quant_map",
    "SCB",
    "inv_freq",
    "masked_bias",
    "position_ids",
)


class BadWeights(Exception):
    """A file is not what its name says; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def read_header(file: BinaryIO, name: str) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises `BadWeights`."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise BadWeights(f"{name} is not a safetensors file, or is cut off")
    try:
        found = parse_header(json.loads(file.read(length)))
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise BadWeights(f"{name} has a header that cannot be read, or is cut off") from failure
    whole, there = 8 + length + weight_bytes(found), file.seek(0, os.SEEK_END)
    if whole != there:
        raise BadWeights(f"{name} is cut off: it has {there} bytes, and its header says {whole}")
    return found


def parse_header(header: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a parsed header, as the hub gives it too."""
    return {
        name: Tensor(str(entry["dtype"]), tuple(map(int, entry["shape"])), _span(*entry["data_offsets"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a model's directory; none where it has no safetensors files. Raises `BadWeights` and OSError."""
    found: dict[str, Tensor] = {}
    for name in weight_files(directory):
        with open_unnoticed(directory / name) as file:
            found |= read_header(file, name)
    return found


def open_unnoticed(path: Path) -> BinaryIO:
    """Open a file so that looking at it does not count as its last use, where the system lets us."""

    def opener(name: str, flags: int) -> int:
        try:
            return os.open(name, flags | os.O_NOATIME)
        except PermissionError:  # only for the file's owner
            return os.open(name, flags)

    return open(path, "rb", opener=opener)


def weight_files(directory: Path) -> list[str]:
    """The files that hold the model: those of the index where there is one, and never the same weights twice."""
    try:
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        return sorted(set(map(str, index["weight_map"].values())))
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise BadWeights(f"{INDEX} cannot be read") from failure
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    own = [name for name in names if not name.startswith(("consolidated", "adapter"))]  # Mistral's second copy
    return own or names


def weight_bytes(tensors: Mapping[str, Tensor]) -> int:
    """What the weights take, scales and all."""
    return sum(tensor.size_bytes for tensor in tensors.values())


def parameters(tensors: Mapping[str, Tensor], bits: int | None = None) -> int:
    """How many numbers the model has. `bits` is that of a quantised weight, where it is packed into integers."""
    return sum(_numbers(name, tensor, bits) for name, tensor in tensors.items())


def commonest_dtype(tensors: Iterable[Tensor]) -> str | None:
    """The type that most bytes of unpacked weights have."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.dtype in _FLOATS:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    return _FLOATS[max(sizes, key=lambda dtype: sizes[dtype])] if sizes else None


def _numbers(name: str, tensor: Tensor, bits: int | None) -> int:
    if name.rpartition(".")[2].endswith(_BESIDE) or ".quant_state." in name or ".nested_" in name:
        return 0
    count = prod(tensor.shape)
    if bits is not None and tensor.dtype in ("I32", "U8") and (tensor.dtype == "U8" or name.endswith(_PACKED)):
        width = 32 if tensor.dtype == "I32" else 8
        return count * width // bits
    return count


def _span(start: int, end: int) -> int:
    return end - start
