"""A plan → what to type: `forebay serve` with its settings and, after `--`, vLLM's options; and chart values. Pure."""

import shlex
from collections.abc import Mapping
from typing import Any

from forebay.deploy.names import label_of
from forebay.planner.memory import GIB
from forebay.planner.plan import Plan

# vLLM 0.32's name for it: `fp8` alone is for checkpoints that are in FP8 already (layers/quantization/fp8.py).
ON_LOAD = {"fp8": "fp8_per_tensor"}


def settings_of(plan: Plan) -> dict[str, Any]:
    """Forebay's settings, by their names."""
    on_gpu = not plan.ask.device.is_cpu
    several = plan.shape.tensor > 1
    return {
        "model": plan.model.name,
        **({"replicas": per_node} if (per_node := replicas_per_node(plan)) > 1 else {}),
        **({"tensor_parallel_size": plan.shape.tensor} if several else {}),
        **({"dtype": plan.formats.dtype} if plan.formats.dtype else {}),
        **({"quantization": ON_LOAD[plan.ask.on_load]} if plan.ask.on_load else {}),
        "max_model_len": plan.context,
        "max_num_seqs": plan.sequences,
        **({"gpu_memory_utilization": plan.share} if on_gpu else {}),
    }


def engine_args(plan: Plan, *, between_nodes: bool = True) -> list[str]:
    """vLLM's own options, which Forebay has no settings for; on demand, without what the chart says of nodes."""
    shape, formats = plan.shape, plan.formats
    args = ["--max-num-batched-tokens", str(plan.chunk)]
    if shape.pipeline > 1 and (between_nodes or shape.pipeline != shape.nodes):
        args += ["--pipeline-parallel-size", str(shape.pipeline)]
    if shape.nodes > 1 and between_nodes:
        args += ["--distributed-executor-backend", "ray"]
    if formats.kv_dtype:
        args += ["--kv-cache-dtype", formats.kv_dtype]
    if formats.backend:
        args += ["--attention-backend", formats.backend]
    return args


def environment(plan: Plan) -> dict[str, str]:
    """Variables for the engine."""
    if not plan.ask.device.is_cpu:
        return {}
    return {"VLLM_CPU_KVCACHE_SPACE": str(plan.memory.cache // GIB)}


def serve_words(plan: Plan) -> list[str]:
    """The command, word by word."""
    settings = settings_of(plan)
    words = ["forebay", "serve", settings.pop("model")]
    for name, value in settings.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return [*words, "--", *engine_args(plan)]


def serve_line(plan: Plan) -> str:
    """The command, as it is pasted into a shell."""
    variables = "".join(f"{name}={value} " for name, value in environment(plan).items())
    return variables + shlex.join(serve_words(plan))


def replicas_per_node(plan: Plan) -> int:
    """Copies that one `forebay serve` starts."""
    return plan.shape.replicas // plan.ask.nodes if plan.shape.nodes == 1 and plan.shape.pipeline == 1 else 1


def chart_values(plan: Plan) -> dict[str, Any]:
    """One entry of the chart's `models`; a copy of the model is a replica there, each with its own GPUs.

    The chart makes tensor parallelism of a pod's GPUs, and pipeline stages of nodes, so neither is said again.
    """
    settings, shape, told_env = settings_of(plan), plan.shape, environment(plan)
    gpus = 0 if plan.ask.device.is_cpu else -(-shape.gpus // shape.nodes)
    told = {name: value for name, value in settings.items() if name not in ("model", "replicas")}
    if told.get("tensor_parallel_size", 1) == max(gpus, 1):
        told.pop("tensor_parallel_size", None)
    else:
        told["tensor_parallel_size"] = shape.tensor
    return {
        "models": [
            {
                "name": label_of(plan.model.name),
                "model": plan.model.name,
                "replicas": shape.replicas,
                **({"nodes": shape.nodes} if shape.nodes > 1 else {}),
                "gpus": gpus,
                "settings": told,
                "args": engine_args(plan, between_nodes=False),
                **({"env": [{"name": key, "value": value} for key, value in told_env.items()]} if told_env else {}),
            }
        ]
    }


def as_yaml(value: Any, indent: int = 0) -> str:
    """Plain data as YAML: mappings, lists, text and numbers are all there is here."""
    pad = "  " * indent
    if isinstance(value, Mapping):
        return "".join(f"{pad}{key}:{_below(item, indent)}" for key, item in value.items())
    lines = []
    for item in value:
        inner = as_yaml(item, indent + 1) if isinstance(item, Mapping) else _scalar(item) + "\n"
        lines.append(f"{pad}- {inner.removeprefix('  ' * (indent + 1))}")
    return "".join(lines)


def _below(value: Any, indent: int) -> str:
    if isinstance(value, Mapping | list):
        return "\n" + as_yaml(value, indent + 1)
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    """Text is quoted: `4096`, `on` and `1:2` would be read as something else."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)
