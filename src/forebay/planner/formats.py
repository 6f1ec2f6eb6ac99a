"""Which number formats and attention a model gets on a device, and what cannot be done there at all. Pure.

From vLLM 0.32, the version that Forebay installs: each method's `get_min_capability`, the attention backends'
`supports_compute_capability` and the order in which `platforms/cuda.py` tries them, and the list of models that refuse
float16 in `config/model.py`.
"""

from dataclasses import dataclass

from forebay.planner.gpus import Device
from forebay.planner.source import Model

# Quantisation method → the least compute capability. On a CPU: those with kernels there.
LEAST_CAPABILITY = {
    "awq": (7, 5),
    "auto_awq": (7, 5),
    "awq_marlin": (7, 5),
    "gptq": (7, 0),
    "auto_gptq": (7, 0),
    "gptq_marlin": (7, 5),
    "fp8": (7, 5),
    "fbgemm_fp8": (8, 0),
    "compressed-tensors": (7, 0),
    "quark": (7, 0),
    "modelopt": (8, 0),
    "modelopt_fp4": (7, 5),
    "mxfp4": (8, 0),
    "gpt_oss_mxfp4": (8, 0),
    "experts_int8": (8, 0),
    "moe_wna16": (7, 0),
    "torchao": (7, 5),
    "inc": (7, 0),
    "auto-round": (7, 0),
}
ON_CPU = ("awq", "auto_awq", "gptq", "auto_gptq", "compressed-tensors", "inc", "auto-round")
NO_FLOAT16 = ("gemma2", "gemma3", "gemma3_text", "glm4")
# Models whose latent attention vLLM keeps compressed, and nothing else beside it.
LATENT = ("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite", "pangu_ultra_moe", "longcat_flash", "axk1")
VOLTA = (7, 0)


class CannotRun(Exception):
    """The model does not run there, or nothing can be said of it; the message says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Formats:
    """What is asked of vLLM; None where it finds the right thing itself. Bytes are those of one number."""

    dtype: str | None
    dtype_bytes: int
    kv_dtype: str | None
    kv_bytes: int
    backend: str | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


def formats_for(model: Model, device: Device, kv_dtype: str = "auto", on_load: str | None = None) -> Formats:
    """The formats for a model on a device. Raises `CannotRun`."""
    _check_model(model)
    _check_method(model, device, on_load)
    dtype, dtype_bytes, why_dtype = _dtype(model, device)
    if model.facts.quantisation is not None and model.facts.quantisation.kv_cache_bits == 8 and device.has_fp8:
        kv_dtype = "fp8"
    if kv_dtype == "fp8" and not device.has_fp8:
        raise CannotRun(
            f"kv-cache-dtype: {device.name} has no FP8; leave it at auto, or use an L4, L40S, H100 or later"
        )
    backend, why_backend = _backend(model, device)
    return Formats(
        dtype=dtype,
        dtype_bytes=dtype_bytes,
        kv_dtype="fp8" if kv_dtype == "fp8" else None,
        kv_bytes=1 if kv_dtype == "fp8" else dtype_bytes,
        backend=backend,
        reasons=tuple(why for why in (why_dtype, why_backend) if why),
        warnings=tuple(_warnings(model, device, kv_dtype, on_load)),
    )


def _check_model(model: Model) -> None:
    facts = model.facts
    if facts.missing:
        raise CannotRun(f"model: config.json does not say its {', '.join(facts.missing)}; nothing can be computed")
    if facts.stateful_layers:
        raise CannotRun(
            f"model: {facts.stateful_layers} of {facts.layers} layers keep a state and no KV cache (Mamba, linear "
            "attention); what they take is not computed here: start vLLM and read what it logs"
        )
    if facts.latent is not None and facts.model_type not in LATENT:
        raise CannotRun(f"model: how vLLM keeps the latent attention of '{facts.model_type}' is not known here")
    if facts.full_layers < 0:
        raise CannotRun("model: config.json lists more kinds of layers than it has layers")


def _check_method(model: Model, device: Device, on_load: str | None) -> None:
    own = model.facts.quantisation
    if own is not None and on_load is not None:
        raise CannotRun(f"quantization: the model is quantised already ({own}); leave --quantization out")
    if (method := on_load or (own.method if own else None)) is None:
        return
    if method not in LEAST_CAPABILITY:
        raise CannotRun(
            f"model: vLLM 0.32 does not have '{method}'; take a checkpoint in AWQ, GPTQ, FP8 or the original"
        )
    least = LEAST_CAPABILITY[method]
    if device.is_cpu and method not in ON_CPU:
        raise CannotRun(f"model: {method} needs a GPU; take the original, or a checkpoint in AWQ or GPTQ")
    if not device.is_cpu and device.capability < least:
        raise CannotRun(
            f"model: {method} needs compute capability {least[0]}.{least[1]}, and {device.name} has "
            f"{device.capability[0]}.{device.capability[1]}; take a GPTQ checkpoint, or the original"
        )
    if not device.has_bf16 and model.facts.model_type in NO_FLOAT16:  # `get_supported_act_dtypes`: no float32
        raise CannotRun(
            f"model: {device.name} has no bf16, {model.facts.model_type} overflows in float16, and {method} does not "
            "compute in float32; take the original, or an L4, A10G, A100 or later"
        )


def _dtype(model: Model, device: Device) -> tuple[str | None, int, str]:
    facts = model.facts
    if device.has_bf16:
        return None, 2, ""
    if facts.model_type in NO_FLOAT16:
        why = f"{device.name} has no bf16, and {facts.model_type} overflows in float16, so numbers take 4 bytes"
        return "float32", 4, why
    return "half", 2, f"{device.name} has no bf16: the numbers are float16 (--dtype half)"


def _backend(model: Model, device: Device) -> tuple[str | None, str]:
    if device.is_cpu or device.has_flash_attention:
        return None, ""
    name = "TRITON_MLA" if model.facts.latent else "TRITON_ATTN"
    return name, f"{device.name} has no FlashAttention 2, nor FlashInfer in vLLM 0.32: attention is Triton's ({name})"


def _warnings(model: Model, device: Device, kv_dtype: str, on_load: str | None) -> list[str]:
    facts = model.facts
    own = facts.quantisation
    found = []
    if device.capability == VOLTA:
        found.append(
            "vLLM's wheels run from compute capability 7.5 on (documented since 0.21), and PyTorch's have none "
            "for 7.0 since 2.11: a V100 needs an older vLLM, such as 0.14, or a build from source"
        )
    if device.capability < (8, 0) and not device.is_cpu and facts.head_dim >= 256:
        found.append(
            "heads of 256 and more have run out of shared memory in Triton's attention on Turing; try it first"
        )
    if (on_load == "fp8" or (own and own.method == "fp8")) and not device.has_fp8 and not device.is_cpu:
        found.append(f"{device.name} computes in 16 bits what is stored in FP8 (Marlin): memory is saved, not time")
    if kv_dtype == "fp8":
        found.append("a KV cache in FP8 is less exact, above all without calibrated scales: compare answers first")
    if "ForConditionalGeneration" in facts.architecture and facts.weight_bytes is None:
        found.append("the weights of what sees or hears are not in the sum: plan with the model's directory")
    return found
