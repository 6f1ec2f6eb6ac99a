"""A plan as JSON, for programs: `forebay plan MODEL --json`. Pure."""

from dataclasses import asdict
from typing import Any

from forebay.planner.advice import Proposal
from forebay.planner.commands import chart_values, engine_args, environment, serve_line, settings_of
from forebay.planner.plan import Misfit, Plan
from forebay.planner.words import headline, reasons, steps, verdict, warnings, whole_cache


def report(found: Plan | Misfit, proposed: list[Proposal]) -> dict[str, Any]:
    """All that is known of it. What is only of a plan is absent where there is none."""
    facts, ask = found.model.facts, found.ask
    return {
        "verdict": verdict(found),
        "summary": headline(found),
        "model": {
            "name": found.model.name,
            "figures_from": found.model.origin,
            "architecture": facts.architecture,
            "parameters": found.weights.parameters,
            "weight_bytes": found.weights.total,
            "quantisation": str(facts.quantisation) if facts.quantisation else None,
            "context_tokens": facts.context_tokens,
            "kv_bytes_per_token": whole_cache(found.model, found.formats).token_bytes,
        },
        "asked": {
            "gpu": ask.device.name,
            "gpu_memory_gib": ask.device.memory_gib,
            "count": ask.count,
            "nodes": ask.nodes,
            "context": ask.context,
            "concurrency": ask.concurrency,
            "goal": ask.goal.value,
        },
        **(_of_plan(found) if isinstance(found, Plan) else _of_misfit(found)),
        "warnings": list(warnings(found)),
        "proposals": [{"change": one.words, "plan": _short(one.plan)} for one in proposed],
    }


def _of_plan(plan: Plan) -> dict[str, Any]:
    return {
        "plan": {
            **_short(plan),
            "gpu_memory_utilization": None if plan.ask.device.is_cpu else plan.share,
            "memory_bytes": {**asdict(plan.memory), "total": plan.memory.total},
            "kv_cache_tokens": plan.cache_tokens,
            "full_sequences": plan.full_sequences,
            "best_seconds_per_token": plan.step_s,
        },
        "reasons": list(reasons(plan)),
        "settings": settings_of(plan),
        "engine_args": engine_args(plan),
        "environment": environment(plan),
        "steps": list(steps(plan)),
        "command": serve_line(plan),
        "helm_values": chart_values(plan),
    }


def _of_misfit(found: Misfit) -> dict[str, Any]:
    return {
        "needed_bytes": found.needed,
        "budget_bytes": found.budget,
        "context": found.context,
        "longest_context_that_fits": found.longest,
    }


def _short(plan: Plan) -> dict[str, Any]:
    return {
        "tensor_parallel_size": plan.shape.tensor,
        "pipeline_parallel_size": plan.shape.pipeline,
        "replicas": plan.shape.replicas,
        "nodes_per_replica": plan.shape.nodes,
        "dtype": plan.formats.dtype,
        "kv_cache_dtype": plan.formats.kv_dtype,
        "attention_backend": plan.formats.backend,
        "max_model_len": plan.context,
        "max_num_seqs": plan.sequences,
        "max_num_batched_tokens": plan.chunk,
        "sequences_served": plan.served,
    }
