"""`forebay plan MODEL`: what fits on which GPUs, and how to serve it; nothing is downloaded or started."""

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from forebay.cli.options import EXIT_USAGE, fail

if TYPE_CHECKING:
    from forebay.planner.advice import Proposal
    from forebay.planner.gpus import Device
    from forebay.planner.plan import Ask, Misfit, Plan
    from forebay.planner.profiles import Goal, Profile

EXIT_DOES_NOT_FIT = 1
_GIB = 1024**3


_Model = Annotated[
    str, typer.Argument(help="A directory, a config.json, 'default', or a well-known model's Hugging Face id.")
]
_Gpu = Annotated[
    str | None,
    typer.Option(help="T4, L4, A10G, V100-16GB, V100-32GB, A100-40GB, A100-80GB, L40S, H100, H200, B200 or cpu."),
]
_Count = Annotated[int | None, typer.Option(min=1, max=64, help="GPUs in a node; 1 by default.")]
_Nodes = Annotated[int, typer.Option(min=1, max=64, help="Nodes with as many GPUs each.")]
_Context = Annotated[int | None, typer.Option(min=16, help="Longest text, prompt and answer, tokens.")]
_Concurrency = Annotated[int | None, typer.Option(min=1, help="Sequences at a time, over all GPUs.")]
_Goal = Annotated[str | None, typer.Option(help="throughput, latency or long-context.")]
_Profile = Annotated[
    str | None,
    typer.Option(
        help="What is not said: small, medium, large, quantized, t4, throughput, latency or long-context.",
    ),
]
_OnLoad = Annotated[str | None, typer.Option(help="fp8: quantise the weights while they are loaded.")]
_CacheType = Annotated[str, typer.Option(help="auto, or fp8: half the KV cache.")]
_Memory = Annotated[
    float | None, typer.Option(min=1, help="Memory of one GPU, or of the CPU's machine, where it is another, GiB.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print the plan as JSON, for programs.")]


def plan(
    model: _Model,
    gpu: _Gpu = None,
    count: _Count = None,
    nodes: _Nodes = 1,
    context: _Context = None,
    concurrency: _Concurrency = None,
    goal: _Goal = None,
    profile: _Profile = None,
    quantization: _OnLoad = None,
    kv_cache_dtype: _CacheType = "auto",
    memory: _Memory = None,
    as_json: _Json = False,
) -> None:
    """Say what a model needs and how to serve it well on given GPUs, from its config.json alone:

    forebay plan meta-llama/Meta-Llama-3-70B-Instruct --gpu H100 --count 4 --context 8192 --concurrency 128

    forebay plan ./my-model --profile t4

    Prints where the memory goes, why, the `forebay serve` line and values for the Helm chart. Ends with status 1 where
    the model does not fit; what would do is printed then, too.
    """
    chosen = _profile(profile)
    ask = replace(
        _ask(chosen, gpu, count, nodes, memory),
        context=context or chosen.context,
        concurrency=concurrency or chosen.concurrency,
        goal=_goal(goal) if goal is not None else chosen.goal,
        kv_dtype=_one_of("kv-cache-dtype", kv_cache_dtype, ("auto", "fp8")),
        on_load=None if quantization is None else _one_of("quantization", quantization, ("fp8",)),
    )
    found, proposed = _planned(model, ask, chosen)
    if as_json:
        from forebay.planner.report import report

        typer.echo(json.dumps(report(found, proposed), indent=2))
    else:
        from forebay.planner.show import show

        show(found, proposed)
    _end(found)


def _planned(name: str, ask: "Ask", chosen: "Profile") -> "tuple[Plan | Misfit, list[Proposal]]":
    """The plan and what would serve better; ends the process where nothing can be said."""
    from forebay.planner.advice import proposals
    from forebay.planner.formats import CannotRun
    from forebay.planner.plan import make_plan
    from forebay.planner.source import ModelUnknown, find_model

    try:
        model = find_model(name)
        if chosen.quantise and model.facts.quantisation is None:
            ask = replace(ask, on_load="fp8")
        found = make_plan(model, ask)
        return found, proposals(found)
    except (ModelUnknown, CannotRun) as wrong:
        fail(str(wrong))


def _ask(chosen: "Profile", gpu: str | None, count: int | None, nodes: int, memory: float | None) -> "Ask":
    """The devices of a plan."""
    from forebay.planner.plan import Ask

    named = gpu or chosen.gpu
    if named is None:
        fail("gpu: name one, as in --gpu A100-40GB, or `--gpu cpu`", EXIT_USAGE)
    device = _device(named, memory)
    if device.is_cpu and (count or 1) * nodes > 1:
        fail("count: a CPU is planned for as one; leave --count and --nodes out", EXIT_USAGE)
    own_count = chosen.count if gpu is None else None
    return Ask(device, count or own_count or 1, nodes)


def _device(name: str, memory: float | None) -> "Device":
    from forebay.planner.gpus import UnknownDevice, device_named

    try:
        device = device_named(name)
    except UnknownDevice as wrong:
        fail(f"gpu: {wrong}", EXIT_USAGE)
    if memory is None and device.is_cpu:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    return device if memory is None else replace(device, memory_gib=memory)


def _profile(name: str | None) -> "Profile":
    """The profile of that name, or one that says nothing."""
    from forebay.planner.profiles import PROFILES, Profile

    return Profile("") if name is None else PROFILES[_one_of("profile", name, tuple(PROFILES))]


def _goal(name: str) -> "Goal":
    from forebay.planner.profiles import Goal

    return Goal(_one_of("goal", name, tuple(Goal)))


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        fail(f"{option}: '{value}' is none of {', '.join(known)}", EXIT_USAGE)
    return value


def _end(found: "Plan | Misfit") -> None:
    from forebay.planner.plan import Misfit

    if isinstance(found, Misfit):
        raise typer.Exit(EXIT_DOES_NOT_FIT)
