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


def plan(
    model: Annotated[
        str, typer.Argument(help="A directory, a config.json, 'default', or a well-known model's Hugging Face id.")
    ],
    gpu: Annotated[
        str | None,
        typer.Option(help="T4, L4, A10G, V100-16GB, V100-32GB, A100-40GB, A100-80GB, L40S, H100, H200, B200 or cpu."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, max=64, help="GPUs in a node; 1 by default.")] = None,
    nodes: Annotated[int, typer.Option(min=1, max=64, help="Nodes with as many GPUs each.")] = 1,
    context: Annotated[int | None, typer.Option(min=16, help="Longest text, prompt and answer, tokens.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Sequences at a time, over all GPUs.")] = None,
    goal: Annotated[str | None, typer.Option(help="throughput, latency or long-context.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="small, medium, large, quantized, t4, throughput, latency or long-context: what is not said."
        ),
    ] = None,
    quantization: Annotated[str | None, typer.Option(help="fp8: quantise the weights while they are loaded.")] = None,
    kv_cache_dtype: Annotated[str, typer.Option(help="auto, or fp8: half the KV cache.")] = "auto",
    memory: Annotated[
        float | None, typer.Option(min=1, help="Memory of one GPU, or of the CPU's machine, where it is another, GiB.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, for programs.")] = False,
) -> None:
    """Say what a model needs and how to serve it well on given GPUs, from its config.json alone:

    forebay plan meta-llama/Meta-Llama-3-70B-Instruct --gpu H100 --count 4 --context 8192 --concurrency 128

    forebay plan ./my-model --profile t4

    Prints where the memory goes, why, the `forebay serve` line and values for the Helm chart. Ends with status 1 where
    the model does not fit; what would do is printed then, too.
    """
    from forebay.planner.advice import proposals
    from forebay.planner.formats import CannotRun
    from forebay.planner.plan import make_plan
    from forebay.planner.profiles import Profile
    from forebay.planner.report import report
    from forebay.planner.source import ModelUnknown, find_model

    chosen = _profile(profile) if profile is not None else Profile("")
    ask = _ask(chosen, gpu, count, nodes, memory)
    ask = replace(
        ask,
        context=context or chosen.context,
        concurrency=concurrency or chosen.concurrency,
        goal=_goal(goal) if goal is not None else chosen.goal,
        kv_dtype=_one_of("kv-cache-dtype", kv_cache_dtype, ("auto", "fp8")),
        on_load=None if quantization is None else _one_of("quantization", quantization, ("fp8",)),
    )
    try:
        wanted = find_model(model)
        if chosen.quantise and wanted.facts.quantisation is None:
            ask = replace(ask, on_load="fp8")
        found = make_plan(wanted, ask)
        proposed = proposals(found)
    except (ModelUnknown, CannotRun) as wrong:
        fail(str(wrong))
    if as_json:
        typer.echo(json.dumps(report(found, proposed), indent=2))
    else:
        _show(found, proposed)
    _end(found)


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


def _profile(name: str) -> "Profile":
    from forebay.planner.profiles import PROFILES

    return PROFILES[_one_of("profile", name, tuple(PROFILES))]


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


def _show(found: "Plan | Misfit", proposed: "list[Proposal]") -> None:
    from forebay.planner.show import show

    show(found, proposed)
