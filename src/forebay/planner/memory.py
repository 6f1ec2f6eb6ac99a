"""What a GPU's memory goes to besides the weights: KV cache, activations, CUDA graphs, and what is not PyTorch's. Pure.

vLLM (0.32, `v1/worker/gpu_worker.py`) takes `gpu_memory_utilization` of the device's total; of that it takes off what
it uses after loading, the peak of a trial run, and its estimate of CUDA graphs, and gives the rest to the KV cache.
The same is done here. The trial run is a forward pass of `max_num_batched_tokens` and a sampling for `max_num_seqs`,
whose peaks do not come together. The three rules of thumb are held against logs in tests/unit/planner/test_memory.py.
"""

from dataclasses import dataclass
from math import ceil

from forebay.models.facts import ModelFacts

GIB = 1024**3
MIB = 1024**2
BLOCK_TOKENS = 16  # vLLM's KV cache block on GPUs
SAMPLER_BYTES = 40  # of each number that sampling works on: logits, sorted copies and their places, probabilities
GRAPH_LAYER_BYTES = 0.35 * MIB
ALONE_BYTES = GIB // 4  # what is not PyTorch's: kernels' own workspaces
TOGETHER_BYTES = GIB  # besides that, with several GPUs: NCCL's and the custom all-reduce's buffers


@dataclass(frozen=True, slots=True)
class Cache:
    """The KV cache on the GPU that holds most of it: `layer_bytes` a token in each layer."""

    full_layers: int
    sliding_layers: int
    window: int
    layer_bytes: int

    @property
    def token_bytes(self) -> int:
        """Bytes of one more token while the text is shorter than any window."""
        return (self.full_layers + self.sliding_layers) * self.layer_bytes

    def sequence_bytes(self, tokens: int, chunk: int) -> int:
        """Bytes of a text. A layer with a window keeps that, and what one step may add."""
        full = _blocks(tokens) * self.full_layers
        sliding = _blocks(min(tokens, self.window - 1 + chunk)) * self.sliding_layers
        return (full + sliding) * BLOCK_TOKENS * self.layer_bytes

    def longest(self, room: int, chunk: int, at_most: int) -> int:
        """The longest text that the room holds, in whole blocks."""
        low, high = 0, at_most // BLOCK_TOKENS
        while low < high:
            middle = (low + high + 1) // 2
            if self.sequence_bytes(middle * BLOCK_TOKENS, chunk) <= room:
                low = middle
            else:
                high = middle - 1
        return low * BLOCK_TOKENS


def cache_of(facts: ModelFacts, tensor: int = 1, pipeline: int = 1, number_bytes: int = 2) -> Cache:
    """The KV cache of a model. With latent attention there is one vector a token, whole on each GPU."""
    if facts.latent is not None:
        layer_bytes = (facts.latent.kv_rank + facts.latent.rope_dim) * number_bytes
    else:
        layer_bytes = 2 * max(facts.kv_heads // tensor, 1) * facts.head_dim * number_bytes
    return Cache(
        full_layers=ceil(facts.full_layers / pipeline),
        sliding_layers=ceil(facts.sliding_layers / pipeline),
        window=facts.sliding_window or 0,
        layer_bytes=layer_bytes,
    )


def activation_bytes(facts: ModelFacts, tensor: int, chunk: int, sequences: int, number_bytes: int = 2) -> int:
    """The peak of the trial run: the forward pass of a chunk of tokens, or the sampling for all sequences."""
    wide = 3 * facts.intermediate / tensor
    if facts.experts is not None:
        each = 3 * facts.experts.intermediate / tensor + facts.hidden
        wide = max(wide, each * (facts.experts.per_token + facts.experts.shared))
    heads = (facts.heads + 2 * facts.kv_heads) * facts.head_dim / tensor
    forward = 1.1 * chunk * number_bytes * (4 * facts.hidden + heads + wide)
    return ceil(max(forward, sequences * facts.vocab * SAMPLER_BYTES))


def graph_bytes(layers: int, sequences: int, largest: int = 512) -> int:
    """CUDA graphs for batches of 1, 2, 4, 8, 16, 24 … up to twice the sequences (vLLM 0.32, config/vllm.py)."""
    top = min(2 * sequences, largest)
    small = sum(size <= top for size in (1, 2, 4))
    sizes = small + len(range(8, min(top + 1, 256), 8)) + len(range(256, top + 1, 16))
    return ceil(sizes * layers * GRAPH_LAYER_BYTES)


def other_bytes(gpus: int) -> int:
    """What is neither the model's nor PyTorch's."""
    return ALONE_BYTES + (TOGETHER_BYTES if gpus > 1 else 0)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
