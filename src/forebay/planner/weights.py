"""What a model's weights are, counted from its shape, and what one GPU holds of them. Pure.

Tensor parallelism splits most matrices evenly; the key and value projections only down to one head each, of which GPUs
beyond that hold copies; norms, routers and what latent attention compresses to are whole on each. Where safetensors
headers gave the true size, what is counted here only says how it is shared out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from forebay.models.facts import ModelFacts
from forebay.models.quantisation import Quantisation

FP8_ON_LOAD = Quantisation("fp8", 8, is_float=True)
# Feed-forward networks of two matrices; all others have three (gate, up, down).
_UNGATED = ("gpt", "opt", "bloom", "falcon", "mpt", "phi", "starcoder", "stablelm_epoch", "codegen", "persimmon")
_GATED_ALL_THE_SAME = ("gpt_oss", "phi3", "phimoe", "phi4", "falcon_h1", "falcon3")
# The methods that quantise experts alone.
_EXPERTS_ONLY = ("mxfp4", "gpt_oss_mxfp4")


@dataclass(frozen=True, slots=True)
class Layer:
    """Formats in one layer: split evenly over GPUs, split by key and value heads, and whole on each."""

    split: int
    by_kv_head: int
    whole: int
    unquantised: int

    @property
    def numbers(self) -> int:
        return self.split + self.by_kv_head + self.whole + self.unquantised


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's weights as they are held: bytes, by what happens to them when they are shared out."""

    layers: int
    split: float
    by_kv_head: float
    whole: float
    embedding: float
    output: float
    kv_heads: int
    parameters: int
    active_share: float

    @property
    def total(self) -> int:
        """Bytes of the whole model."""
        return round(self.layers * (self.split + self.by_kv_head + self.whole) + self.embedding + self.output)

    def on_one_gpu(self, tensor: int, pipeline: int) -> int:
        """Bytes on the GPU that holds most."""
        layer = self.split / tensor + self.by_kv_head / min(tensor, self.kv_heads) + self.whole
        ends = max(self.embedding, self.output) if pipeline > 1 else self.embedding + self.output
        return ceil(ceil(self.layers / pipeline) * layer + ends / tensor)


def weights_of(
    facts: ModelFacts, on_load: Quantisation | None = None, block: int | None = None, dtype_bytes: int = 2
) -> Weights:
    """A model's weights as vLLM holds them: quantised as they are on disk, or while they are loaded.

    `dtype_bytes` is what a number takes that is not quantised: 2, whatever it takes on disk, unless vLLM is told so.
    """
    layers = list(each_layer(facts))
    count = len(layers)
    numbers = sum(layer.numbers for layer in layers)
    table = facts.vocab * facts.hidden
    tables = table if facts.tied_embeddings else 2 * table
    plain = float(dtype_bytes)
    method = facts.quantisation or on_load
    packed = quantised_bytes(method, block) if method is not None else plain
    experts_only = method is not None and method.method in _EXPERTS_ONLY
    parameters = facts.parameters or numbers + tables + facts.hidden
    per_layer = _bytes(facts, layers, plain, packed, experts_only)
    unscaled = sum(per_layer) * count + tables * plain
    scale = _true_bytes(facts, on_load, parameters, plain, unscaled) / unscaled
    return Weights(
        layers=count,
        split=per_layer[0] * scale,
        by_kv_head=per_layer[1] * scale,
        whole=per_layer[2] * scale,
        embedding=table * plain * scale,
        output=0.0 if facts.tied_embeddings else table * plain * scale,
        kv_heads=max(facts.kv_heads, 1),
        parameters=parameters,
        active_share=_active_share(facts, numbers + tables),
    )


def each_layer(facts: ModelFacts) -> Iterator[Layer]:
    """The numbers in each layer, first to last."""
    attention = _latent_attention(facts) if facts.latent else _attention(facts)
    dense = facts.experts.dense_layers if facts.experts else facts.layers
    for number in range(facts.layers):
        yield _with_network(facts, attention, sparse=number >= dense)


def quantised_bytes(method: Quantisation, block: int | None = None) -> float:
    """Bytes that one quantised number takes, its share of scales and zero points included."""
    bits = method.bits or 8
    if method.group_size:
        zero_point = 0 if method.is_float else bits / 8
        return bits / 8 + ((1 if method.is_float else 2) + zero_point) / method.group_size
    if block:
        return bits / 8 + 4 / block**2
    return bits / 8 + (1 / 32 if bits == 4 else 0)  # 4 bits always come with scales, whatever is told of groups


def is_gated(facts: ModelFacts) -> bool:
    """Whether the feed-forward network has a gate."""
    kind = facts.model_type
    return kind.startswith(_GATED_ALL_THE_SAME) or not kind.startswith(_UNGATED)


def _attention(facts: ModelFacts) -> Layer:
    heads, kv_heads = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    return Layer(2 * facts.hidden * heads, 2 * facts.hidden * kv_heads, 0, 2 * facts.hidden)


def _latent_attention(facts: ModelFacts) -> Layer:
    latent = facts.latent
    assert latent is not None
    query = facts.heads * (latent.nope_dim + latent.rope_dim)
    up = facts.heads * latent.kv_rank * (latent.nope_dim + latent.v_dim)
    out = facts.heads * latent.v_dim * facts.hidden
    down = facts.hidden * (latent.kv_rank + latent.rope_dim + latent.q_rank)
    return Layer((latent.q_rank or facts.hidden) * query + up + out, 0, down, 2 * facts.hidden)


def _with_network(facts: ModelFacts, attention: Layer, *, sparse: bool) -> Layer:
    matrices = 3 if is_gated(facts) else 2
    if facts.experts is None or not sparse:
        network, router = matrices * facts.hidden * facts.intermediate, 0
    else:
        each = matrices * facts.hidden * facts.experts.intermediate
        network, router = (facts.experts.count + facts.experts.shared) * each, facts.hidden * facts.experts.count
    return Layer(attention.split + network, attention.by_kv_head, attention.whole, attention.unquantised + router)


def _bytes(
    facts: ModelFacts, layers: list[Layer], plain: float, packed: float, experts_only: bool
) -> tuple[float, float, float]:
    """Bytes of the average layer: split, by key and value head, whole."""
    count = len(layers)
    split = sum(layer.split for layer in layers) / count
    rest = packed
    if experts_only:  # the attention stays as it was
        rest = plain
        attention = _attention(facts).split
        split_bytes = (split - attention) * packed + attention * plain
    else:
        split_bytes = split * packed
    whole = sum(layer.whole for layer in layers) / count * rest
    unquantised = sum(layer.unquantised for layer in layers) / count * plain
    return split_bytes, sum(layer.by_kv_head for layer in layers) / count * rest, whole + unquantised


def _true_bytes(
    facts: ModelFacts, on_load: Quantisation | None, parameters: int, plain: float, counted: float
) -> float:
    """What the weights take: as the headers say, where there are any."""
    if facts.weight_bytes is None:
        return counted
    if facts.quantisation is not None:
        return float(facts.weight_bytes)
    if on_load is None:
        return parameters * plain
    return counted


def _active_share(facts: ModelFacts, numbers: int) -> float:
    """The share of the weights that one token reads: all, but of the experts only those that it goes to."""
    if facts.experts is None:
        return 1.0
    each = (3 if is_gated(facts) else 2) * facts.hidden * facts.experts.intermediate
    idle = (facts.experts.count - facts.experts.per_token) * each * (facts.layers - facts.experts.dense_layers)
    return 1 - idle / numbers
