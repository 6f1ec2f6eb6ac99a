"""config.json's `quantization_config`, or a GGUF file's name → how the weights were quantised. Pure.

Every method writes this in its own way; what they share is the number of bits a weight takes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NAMES = {"awq": "AWQ", "gptq": "GPTQ", "fp8": "FP8", "gguf": "GGUF", "mxfp4": "MXFP4", "modelopt": "ModelOpt"}
_BITS = {"fp8": 8, "fbgemm_fp8": 8, "mxfp4": 4, "modelopt_fp4": 4}
_GGUF = re.compile(r"(?:^|[-._])((?:I?Q|TQ)(\d)(?:_[0-9A-Z]+)*|(?:BF|F)(16|32)|MXFP(4))(?=[-._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """`method` is vLLM's name for it. `bits` and `group_size` are None where the config does not say them.

    `kv_cache` is set where the checkpoint has scales for a quantised KV cache, to the bits of one number there.
    """

    method: str
    bits: int | None = None
    group_size: int | None = None
    is_float: bool = False
    kv_cache_bits: int | None = None
    variant: str = ""

    def __str__(self) -> str:
        name = _NAMES.get(self.method, self.method)
        if self.variant:
            return f"{name} {self.variant}"
        if self.bits is None or name.endswith((f"FP{self.bits}", f"fp{self.bits}")):
            return name
        return f"{name} FP{self.bits}" if self.is_float else f"{name} {self.bits}-bit"


def quantisation_of(config: Mapping[str, Any]) -> Quantisation | None:
    """How the weights were quantised; None where they were not."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, Mapping):
        return None
    inner = found.get("quantization")  # ModelOpt's older form
    found = {**found, **inner} if isinstance(inner, Mapping) else found
    algorithm = str(found.get("quant_algo") or "").upper()
    method = _method(found, algorithm)
    weights = _group_weights(found)
    bits = _bits(found, method, algorithm) or _whole(weights.get("num_bits"))
    return Quantisation(
        method=method,
        bits=bits,
        group_size=_whole(found.get("group_size") or found.get("q_group_size") or weights.get("group_size")),
        is_float=weights.get("type") == "float" or "fp" in method or "FP" in algorithm,
        kv_cache_bits=_kv_cache_bits(found),
        variant=str(found.get("bnb_4bit_quant_type") or "").upper() if found.get("load_in_4bit") else algorithm,
    )


def gguf_quantisation(file_name: str) -> Quantisation | None:
    """What a GGUF file's name says, as in `Llama-3-8B.Q4_K_M.gguf`; None for another file."""
    stem, dot, suffix = file_name.rpartition(".")
    if not dot or suffix.lower() != "gguf":
        return None
    if (named := _GGUF.search(stem)) is None:
        return Quantisation("gguf")
    bits = next(int(group) for group in named.groups()[1:] if group)
    return Quantisation("gguf", bits, is_float=named[1][0] in "bBfFmM", variant=named[1].upper())


def _method(found: Mapping[str, Any], algorithm: str) -> str:
    method = str(found.get("quant_method") or "").lower().replace("_tensors", "-tensors")
    if algorithm and method in ("", "modelopt"):
        return "modelopt_fp4" if algorithm == "NVFP4" else "modelopt"
    return method or ("bitsandbytes" if "load_in_4bit" in found or "load_in_8bit" in found else "unknown")


def _bits(found: Mapping[str, Any], method: str, algorithm: str) -> int | None:
    if found.get("load_in_4bit") or found.get("load_in_8bit"):
        return 4 if found.get("load_in_4bit") else 8
    named = _whole(found.get("bits") or found.get("w_bit") or found.get("weight_bits")) or _BITS.get(method)
    return named or (4 if "FP4" in algorithm or "W4" in algorithm else 8 if algorithm else None)


def _group_weights(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """How compressed-tensors stores the weights of its first group of layers."""
    groups = found.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping) and isinstance(weights := group.get("weights"), Mapping):
            return weights
    return {}


def _kv_cache_bits(found: Mapping[str, Any]) -> int | None:
    scheme = found.get("kv_cache_scheme")
    if isinstance(scheme, Mapping):
        return _whole(scheme.get("num_bits"))
    return 8 if str(found.get("kv_cache_quant_algo") or "").upper() == "FP8" else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
