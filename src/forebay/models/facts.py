"""A model's config.json, and the headers of its weights → what it is: its shape, its number format, its context.

The keys have many names; those that vLLM reads are read here, first name first. A number that config.json does not
say is 0, and `missing` names those that nothing can be computed without. Pure, but for `read_facts`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.models.quantisation import Quantisation, quantisation_of
from forebay.models.tensors import BadWeights, Tensor, commonest_dtype, parameters, read_tensors, weight_bytes

Config = Mapping[str, Any]

_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")  # the language model in one of many parts
_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k")
# Their max_position_embeddings, or their window's, holds after scaling already.
_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default", "mrope")
# Every n-th layer sees all, the others a window, where config.json does not list them.
_FULL_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "llama4_text": 4}
# What config.json leaves to transformers' own figures (`configuration_gemma3.py`).
_UNSAID: Mapping[str, Config] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
    },
}
_TIED = ("gemma", "gpt2", "gpt_bigcode", "opt", "bloom", "cohere", "command", "falcon", "mpt")
_WINDOWED = ("sliding_attention", "chunked_attention", "local_attention", "sliding")
_STATEFUL = ("linear_attention", "mamba", "mamba2", "recurrent", "conv", "mlp", "moe")
_OTHER_QUANTISATION = {"quant_config.json": "awq", "quantize_config.json": "gptq", "hf_quant_config.json": "modelopt"}


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts. `dense_layers` have an ordinary feed-forward network instead."""

    count: int
    per_token: int
    intermediate: int
    shared: int
    dense_layers: int


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: of each token it keeps `kv_rank + rope_dim` numbers, whatever the heads."""

    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int
    q_rank: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What config.json and the headers say. `parameters` and `weight_bytes` are None without safetensors files.

    Of the `layers`, `sliding_layers` see `sliding_window` tokens, and `stateful_layers` (Mamba, linear attention) keep
    nothing that grows with the text.
    """

    architecture: str
    model_type: str
    layers: int
    sliding_layers: int
    stateful_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied_embeddings: bool
    experts: Experts | None
    latent: Latent | None
    sliding_window: int | None
    dtype: str
    quantisation: Quantisation | None
    context_tokens: int
    rope: str
    parameters: int | None = None
    weight_bytes: int | None = None

    @property
    def full_layers(self) -> int:
        """Layers whose KV cache grows with the text to its end."""
        return self.layers - self.sliding_layers - self.stateful_layers

    @property
    def missing(self) -> tuple[str, ...]:
        """What nothing can be computed without, and config.json does not say."""
        wanted = ("layers", "hidden", "vocab", *(() if self.stateful_layers else ("heads", "kv_heads", "head_dim")))
        return tuple(name for name in wanted if not getattr(self, name))


def read_facts(directory: Path) -> ModelFacts:
    """The facts of a model's directory. Raises `BadWeights` and OSError."""
    config = read_json(directory / "config.json")
    for name, method in _OTHER_QUANTISATION.items():  # where it was kept before config.json had it
        if "quantization_config" not in config and (directory / name).is_file():
            config["quantization_config"] = {"quant_method": method, **read_json(directory / name)}
    tokenizer = directory / "tokenizer_config.json"
    longest = read_json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    return facts_of(config, read_tensors(directory), longest)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `BadWeights` where the file holds none, and OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as failure:
        raise BadWeights(f"{path.name} is not JSON: {failure}") from failure
    if not isinstance(found, dict):
        raise BadWeights(f"{path.name} is not a JSON object")
    return found


def facts_of(config: Config, tensors: Mapping[str, Tensor] | None = None, tokenizer_max: Any = None) -> ModelFacts:
    """The facts, of a parsed config.json and the tensors of all headers; `tokenizer_max` is the tokenizer's longest."""
    text = _text(config)
    tensors = tensors or {}
    quantisation = quantisation_of(text)
    model_type = str(text.get("model_type") or "")
    hidden = _number(text, "hidden_size", "n_embd", "d_model", "dim")
    heads = _number(text, "num_attention_heads", "n_head", "n_heads")
    layers = _number(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    window = _window(text, model_type)
    latent = _latent(text)
    stateful = _stateful(text, layers)
    return ModelFacts(
        architecture=str((config.get("architectures") or [""])[0]),
        model_type=model_type,
        layers=layers,
        sliding_layers=_sliding(text, model_type, layers) if window else 0,
        stateful_layers=stateful,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(text) or heads,
        head_dim=_number(text, "head_dim", "kv_channels", "hidden_size_per_head", "attention_head_dim")
        or (latent.nope_dim + latent.rope_dim if latent else hidden // heads if heads else 0),
        intermediate=_number(
            text, "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"
        )
        or 4 * hidden,
        vocab=_number(text, "vocab_size", "padded_vocab_size"),
        tied_embeddings=_tied(text, model_type, tensors),
        experts=_experts(text, layers),
        latent=latent,
        sliding_window=window,
        dtype=_dtype(text) or commonest_dtype(tensors.values()) or "float32",
        quantisation=quantisation,
        context_tokens=_context(text, model_type, tokenizer_max),
        rope=_rope_name(text),
        parameters=parameters(tensors, quantisation.bits if quantisation else None) if tensors else None,
        weight_bytes=weight_bytes(tensors) if tensors else None,
    )


def _text(config: Config) -> dict[str, Any]:
    """The language model's part, of the whole what that part does not say, and what neither says."""
    for name in _TEXT:
        if isinstance(part := config.get(name), Mapping):
            return {**config, name: None, **{key: value for key, value in _text(part).items() if value is not None}}
    return {**_UNSAID.get(str(config.get("model_type")), {}), **config}


def _number(config: Config, *names: str) -> int:
    """The first of the names that is a number; 0 where none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, list) and value:  # a number for each layer
            value = max((one for one in value if isinstance(one, int)), default=None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    return 0


def _kv_heads(text: Config) -> int:
    if text.get("multi_query") and not text.get("new_decoder_architecture"):  # Falcon-7B, StarCoder
        return 1
    attention = text.get("attn_config")  # MPT, DBRX
    inner = _number(attention, "kv_n_heads") if isinstance(attention, Mapping) else 0
    return inner or _number(text, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")


def _experts(text: Config, layers: int) -> Experts | None:
    inner = text.get("ffn_config")  # DBRX
    text = {**text, **inner} if isinstance(inner, Mapping) else text
    count = _number(text, "num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
    if count < 2:
        return None
    every = _number(text, "interleave_moe_layer_step") or 1  # Llama 4, where layers with experts share one, too
    return Experts(
        count=count,
        per_token=_number(
            text, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k"
        ),
        intermediate=_number(text, "moe_intermediate_size", "ffn_hidden_size", "intermediate_size"),
        shared=_number(text, "n_shared_experts", "num_shared_experts") or int(text.get("model_type") == "llama4_text"),
        dense_layers=_number(text, "first_k_dense_replace") or layers - layers // every,
    )


def _latent(text: Config) -> Latent | None:
    if not (rank := _number(text, "kv_lora_rank")):
        return None
    rope, nope = _number(text, "qk_rope_head_dim"), _number(text, "qk_nope_head_dim")
    return Latent(rank, rope, nope, _number(text, "v_head_dim"), _number(text, "q_lora_rank"))


def _window(text: Config, model_type: str) -> int | None:
    if not text.get("use_sliding_window", not model_type.startswith("qwen")):
        return None
    return _number(text, "sliding_window", "attention_chunk_size") or None


def _sliding(text: Config, model_type: str, layers: int) -> int:
    if types := _layer_types(text):
        return sum(one in _WINDOWED for one in types)
    if every := _number(text, "sliding_window_pattern") or _FULL_EVERY.get(model_type, 0):
        return layers - layers // every
    if model_type.startswith("qwen") and "max_window_layers" in text:
        return max(layers - _number(text, "max_window_layers"), 0)
    return layers


def _stateful(text: Config, layers: int) -> int:
    if types := _layer_types(text):
        return sum(one in _STATEFUL for one in types)
    if every := _number(text, "full_attention_interval"):  # Qwen3-Next
        return layers - layers // every
    if every := _number(text, "attn_layer_period"):  # Jamba
        return layers - len(range(_number(text, "attn_layer_offset"), layers, every))
    return layers if text.get("model_type") in ("mamba", "mamba2", "falcon_mamba") else 0


def _layer_types(text: Config) -> Sequence[str]:
    """What each layer is, where config.json lists it."""
    for name in ("layer_types", "layers_block_type"):
        if isinstance(types := text.get(name), list):
            return [str(one) for one in types]
    if isinstance(kinds := text.get("attn_type_list"), list):  # MiniMax: 1 is attention
        return ["attention" if kind else "linear_attention" for kind in kinds]
    if isinstance(pattern := text.get("hybrid_override_pattern"), str):  # Nemotron-H: M, -, *
        return ["attention" if letter == "*" else "mamba" for letter in pattern]
    return ()


def _tied(text: Config, model_type: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the output layer is the embedding itself: the weights say it best."""
    if tensors:
        return not any("lm_head." in name or name in ("output.weight", "embed_out.weight") for name in tensors)
    return bool(text.get("tie_word_embeddings", model_type.startswith(_TIED)))


def _dtype(text: Config) -> str:
    return str(text.get("dtype") or text.get("torch_dtype") or "").removeprefix("torch.")


def _ropes(text: Config) -> list[Config]:
    """How positions are scaled; several where kinds of layers differ."""
    found = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(found, Mapping):
        return []
    nested = [one for one in found.values() if isinstance(one, Mapping)]
    return nested or [found]


def _rope_type(rope: Config) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _rope_name(text: Config) -> str:
    """Such as `yarn ×4`; empty where positions are as they were trained."""
    names = {
        f"{_rope_type(rope)} ×{rope['factor']:g}" if isinstance(rope.get("factor"), int | float) else _rope_type(rope)
        for rope in _ropes(text)
        if _rope_type(rope) not in ("default", "mrope")
    }
    return ", ".join(sorted(names))


def _context(text: Config, model_type: str, tokenizer_max: Any) -> int:
    """The longest text in tokens, as vLLM finds it; 0 where nothing says it."""
    lengths = [length for name in _CONTEXT if (length := _number(text, name))]
    longest = float(_number(text, "model_max_length") or min(lengths, default=0))
    if longest and isinstance(tokenizer_max, int | float) and tokenizer_max > 0:
        longest = min(longest, tokenizer_max)
    factors = [rope.get("factor") for rope in _ropes(text) if _rope_type(rope) not in _SCALED_ALREADY]
    known = [factor for factor in factors if isinstance(factor, int | float)]
    return int(longest * known[-1]) if known and "gemma3" not in model_type else int(longest)
