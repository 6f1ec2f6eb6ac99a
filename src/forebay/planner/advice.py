"""What would serve what is asked for, where a plan does not: each proposal is a plan of its own, reckoned the same way.

Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from forebay.models.quantisation import Quantisation
from forebay.planner.formats import CannotRun
from forebay.planner.gpus import DEVICES, Device
from forebay.planner.plan import LEAST_CONTEXT, Ask, Misfit, Plan, make_plan
from forebay.planner.source import Model

AWQ = Quantisation("awq", 4, 128)
MOST = 6
OF_A_KIND = 2
MOST_GPUS = 8  # in a node
Change = tuple[str, Model, Ask]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change, in words, and the plan that it leads to."""

    words: str
    plan: Plan


def proposals(found: Plan | Misfit) -> list[Proposal]:
    """Changes that help, the ones that do all that is asked for first; none where nothing is amiss."""
    if isinstance(found, Plan) and found.is_enough:
        return []
    served = found.served if isinstance(found, Plan) else 0
    better = [one for one in _tried(found) if one.plan.served > served]
    enough = [one for one in better if one.plan.is_enough]
    return (enough or sorted(better, key=lambda one: -one.plan.served))[:MOST]


def _tried(found: Plan | Misfit) -> Iterator[Proposal]:
    for kind in _changes(found):
        plans = [(words, _plan(model, ask)) for words, model, ask in kind]
        fitting = [Proposal(words, plan) for words, plan in plans if isinstance(plan, Plan)]
        enough = [one for one in fitting if one.plan.is_enough]
        yield from (enough or fitting[::-1])[:OF_A_KIND]


def _plan(model: Model, ask: Ask) -> Plan | Misfit | None:
    try:
        return make_plan(model, ask)
    except CannotRun:
        return None


def _changes(found: Plan | Misfit) -> Iterator[list[Change]]:
    """What may be changed, a kind at a time; within a kind from the least."""
    model, ask = found.model, found.ask
    if isinstance(found, Misfit) and found.longest >= LEAST_CONTEXT:
        yield [(f"--context {found.longest}", model, replace(ask, context=found.longest))]
    if model.facts.quantisation is None:
        yield [("--quantization fp8", model, replace(ask, on_load="fp8"))]
        packed = replace(model, facts=replace(model.facts, quantisation=AWQ, weight_bytes=None))
        yield [("a 4-bit checkpoint (AWQ or GPTQ)", packed, replace(ask, on_load=None))]
    if ask.kv_dtype != "fp8":
        yield [("--kv-cache-dtype fp8", model, replace(ask, kv_dtype="fp8"))]
    if not ask.device.is_cpu:
        yield [
            (f"--count {count}", model, replace(ask, count=count)) for count in (2, 4, MOST_GPUS) if count > ask.count
        ]
        yield [(f"--gpu {device.name}", model, replace(ask, device=device)) for device in _larger(ask)]
    if ask.count >= MOST_GPUS:
        yield [(f"--nodes {2 * ask.nodes}", model, replace(ask, nodes=2 * ask.nodes))]


def _larger(ask: Ask) -> list[Device]:
    return [one for one in DEVICES if one.memory_gib > 1.2 * ask.device.memory_gib and one.capability >= (7, 5)]
