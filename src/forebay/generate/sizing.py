"""`docs/reference/sizing.md`: what the planner says of usual models on usual GPUs."""

from collections.abc import Iterator

from forebay.planner.gpus import device_named
from forebay.planner.plan import Ask, Plan, make_plan
from forebay.planner.source import find_model
from forebay.planner.words import gib

# A model, by a name that the planner knows, and the machines that it is often run on: GPU and how many.
USUAL = {
    "mistral-7b-awq": (("T4", 1), ("L4", 1)),
    "llama-3-8b": (("L4", 1), ("A10G", 1), ("L40S", 1), ("A100-80GB", 1), ("H100", 1), ("H200", 1)),
    "llama-3-70b": (("A100-80GB", 4), ("H100", 4), ("H200", 2), ("H200", 8)),
    "deepseek-v3": (("H200", 8), ("B200", 8)),
}
HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Sizing

What `forebay plan MODEL --gpu GPU --count 1` says where nothing else is asked for: the most sequences at a time, with
contexts of up to 8,192 tokens, each a quarter full on average. It is reckoned and not measured; see
[planning](../planning.md) for how, and `forebay bench sweep URL` for what a server really takes. A replica is one copy
of the model, a pod in Kubernetes; *sequences* are those of one.

| model | GPUs of a node | replicas × GPUs | sequences | weights | KV cache | options |
| --- | --- | --- | --- | --- | --- | --- |
"""


def render() -> str:
    return HEADER + "".join(_rows())


def _rows() -> Iterator[str]:
    for name, machines in USUAL.items():
        for gpu, count in machines:
            plan = make_plan(find_model(name), Ask(device_named(gpu), count))
            assert isinstance(plan, Plan), f"{name} does not fit on {count} × {gpu}"
            yield _row(plan)


def _row(plan: Plan) -> str:
    shape, memory = plan.shape, plan.memory
    options = [f"max_num_seqs {plan.sequences}", f"gpu_memory_utilization {plan.share:g}"]
    if plan.formats.dtype:
        options.append(f"dtype {plan.formats.dtype}")
    cells = (
        plan.model.name,
        f"{plan.ask.count} × {plan.ask.device.name}",
        f"{shape.replicas} × {shape.gpus}",
        f"{plan.sequences:,}",
        gib(memory.weights),
        gib(memory.cache),
        ", ".join(f"`{one}`" for one in options),
    )
    return f"| {' | '.join(cells)} |\n"
