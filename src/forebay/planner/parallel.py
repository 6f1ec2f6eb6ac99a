"""How a model may be split over GPUs, as vLLM's layers allow it. Pure.

Tensor parallelism stays within a node, whose links are fast; pipeline stages may be on several. What vLLM 0.32 checks:
heads, the network's width and the padded vocabulary divide by the size (`divide` in its linear layers); key and value
heads divide by it, or it by them; a quantised matrix is cut between groups of weights that share a scale, never inside
one. The same holds for an expert's width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from forebay.models.facts import ModelFacts
from forebay.planner.source import Model

VOCAB_PADDING = 64  # vllm/model_executor/layers/vocab_parallel_embedding.py


@dataclass(frozen=True, slots=True)
class Shape:
    """How many GPUs hold one copy of the model, and how many copies there are."""

    tensor: int
    pipeline: int
    replicas: int
    nodes: int  # that one copy is on

    @property
    def gpus(self) -> int:
        """Of one copy."""
        return self.tensor * self.pipeline


def shapes(model: Model, gpus_per_node: int, nodes: int) -> Iterator[Shape]:
    """Every way to place the model on the GPUs: several stages only of the greatest size, and only as one copy."""
    sizes = tensor_sizes(model, gpus_per_node)
    for tensor in sizes:
        yield Shape(tensor, 1, gpus_per_node // tensor * nodes, 1)
    stages_per_node = gpus_per_node // sizes[-1]
    for pipeline in range(2, min(stages_per_node * nodes, model.facts.layers) + 1):
        on_nodes = -(-pipeline // stages_per_node)
        if on_nodes == 1 or pipeline % on_nodes == 0:
            yield Shape(sizes[-1], pipeline, 1, on_nodes)


def tensor_sizes(model: Model, most: int) -> list[int]:
    """The sizes that the model can be split into, up to `most`."""
    return [size for size in range(1, most + 1) if why_not(model, size) is None]


def why_not(model: Model, size: int) -> str | None:
    """What stands against splitting the model so; None where nothing does."""
    facts = model.facts
    if size == 1:
        return None
    if facts.heads % size:
        return f"{facts.heads} attention heads do not divide by {size}"
    if facts.latent is None and facts.kv_heads % size and size % facts.kv_heads:
        return f"{facts.kv_heads} key and value heads do not divide by {size}, nor it by them"
    for name, width in _widths(facts):
        if width % size:
            return f"the {name} of {width} does not divide by {size}"
    group = model.weight_block or (facts.quantisation.group_size if facts.quantisation else None)
    if group:
        for name, width in (*_widths(facts), ("attention's output", facts.heads * facts.head_dim)):
            if name != "vocabulary" and width % group == 0 and width // size % group:
                return f"the {name} of {width} over {size} cuts groups of {group} quantised weights"
    return None


def _widths(facts: ModelFacts) -> Iterator[tuple[str, int]]:
    if facts.experts is None or facts.experts.dense_layers:
        yield "feed-forward width", facts.intermediate
    if facts.experts is not None:
        yield "experts' width", facts.experts.intermediate
    yield "vocabulary", -(-facts.vocab // VOCAB_PADDING) * VOCAB_PADDING
