"""The header of a GGUF file → what the model is. Numbers are little-endian; a string is its length and its bytes.

Nothing but the header is read, and of that what is not needed (the tokenizer's words) is passed over.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from forebay.models.tensors import BadWeights, open_unnoticed

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 10_000_000  # more of anything is no header


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the catalogue shows."""

    architecture: str
    parameters: int
    context_tokens: int
    has_chat_template: bool


def read_header(path: Path) -> GgufHeader:
    """Read a file's header. Raises `BadWeights` and OSError."""
    with open_unnoticed(path) as file:
        try:
            return _header(file)
        except (struct.error, ValueError, KeyError) as failure:
            raise BadWeights(f"{path.name} is not a GGUF file, or is cut off") from failure


def _header(file: BinaryIO) -> GgufHeader:
    if file.read(4) != b"GGUF" or _number(file, "I") < 2:
        raise ValueError("no GGUF")
    tensors, keys = _count(file), _count(file)
    found: Mapping[str, Any] = dict(_pair(file) for _ in range(keys))
    kind = str(found.get("general.architecture", ""))
    return GgufHeader(
        architecture=kind,
        parameters=sum(_tensor(file) for _ in range(tensors)),
        context_tokens=int(found.get(f"{kind}.context_length", 0)),
        has_chat_template=bool(found.get("tokenizer.chat_template")),
    )


def _pair(file: BinaryIO) -> tuple[str, Any]:
    return _string(file), _value(file, _number(file, "I"))


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        _pass_array(file)
        return None
    return _number(file, _NUMBERS[kind])


def _pass_array(file: BinaryIO) -> None:
    kind, length = _number(file, "I"), _count(file)
    if kind in _NUMBERS:
        file.seek(length * struct.calcsize(_NUMBERS[kind]), 1)
        return
    for _ in range(length):
        _value(file, kind)


def _tensor(file: BinaryIO) -> int:
    """How many numbers the next tensor has."""
    _string(file)
    shape = [_number(file, "Q") for _ in range(_number(file, "I"))]
    _number(file, "I"), _number(file, "Q")  # its type, and where it is
    return prod(shape)


def _string(file: BinaryIO) -> str:
    return file.read(_count(file)).decode("utf-8", "replace")


def _count(file: BinaryIO) -> int:
    count: int = _number(file, "Q")
    if count > _MOST:
        raise ValueError("no GGUF")
    return count


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]
