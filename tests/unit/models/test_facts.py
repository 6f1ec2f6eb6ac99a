"""What a model is, from its config.json and the headers of its weights. The figures are those that are published."""

import json
from pathlib import Path
from typing import Any

import pytest

from forebay.models.catalogue import describe
from forebay.models.facts import Experts, Latent, facts_of, read_facts
from forebay.models.quantisation import Quantisation, gguf_quantisation, quantisation_of
from forebay.models.tensors import BadWeights, Tensor, parameters, read_tensors
from tests.models.fake_hub import CONFIG, safetensors

# huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json, and its safetensors: 8,030,261,248 parameters.
LLAMA_3_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def llama_tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    """What the headers of a Llama hold."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    narrow = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = {"q": (hidden, hidden), "k": (narrow, hidden), "v": (narrow, hidden), "o": (hidden, hidden)}
    shapes |= {
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
        "n1": (hidden,),
        "n2": (hidden,),
    }
    found = {
        f"model.layers.{layer}.{name}_proj.weight": shape
        for layer in range(config["num_hidden_layers"])
        for name, shape in shapes.items()
    }
    found |= {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden)}
    found["model.norm.weight"] = (hidden,)
    return {name: bf16(*shape) for name, shape in found.items()}


def bf16(*shape: int) -> Tensor:
    size = 2
    for side in shape:
        size *= side
    return Tensor("BF16", shape, size)


def packed(weights: dict[str, Tensor], bits: int, group: int) -> dict[str, Tensor]:
    """The same model as AWQ writes it: 32-bit integers that hold several weights, zero points and scales."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if len(tensor.shape) == 1 or "embed" in name or "lm_head" in name:
            found[name] = tensor
            continue
        wide, deep = tensor.shape
        stem = name.removesuffix("weight")
        found[stem + "qweight"] = Tensor("I32", (deep, wide * bits // 32), deep * wide * bits // 8)
        found[stem + "qzeros"] = Tensor("I32", (deep // group, wide * bits // 32), deep // group * wide * bits // 8)
        found[stem + "scales"] = Tensor("F16", (deep // group, wide), deep // group * wide * 2)
    return found


def test_a_llama_has_the_parameters_and_bytes_that_its_makers_say() -> None:
    facts = facts_of(LLAMA_3_8B, llama_tensors(LLAMA_3_8B))
    assert facts.parameters == 8_030_261_248
    assert facts.weight_bytes == 16_060_522_496  # its index's total_size
    assert (facts.layers, facts.heads, facts.kv_heads, facts.head_dim) == (32, 32, 8, 128)
    assert (facts.full_layers, facts.tied_embeddings, facts.context_tokens) == (32, False, 8192)
    assert facts.missing == ()


def test_a_quantised_model_has_as_many_parameters_as_it_had_before() -> None:
    awq = {**LLAMA_3_8B, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    facts = facts_of(awq, packed(llama_tensors(LLAMA_3_8B), 4, 128))
    assert facts.parameters == 8_030_261_248
    assert facts.weight_bytes is not None
    assert 5.6e9 < facts.weight_bytes < 5.8e9  # casperhansen/llama-3-8b-instruct-awq: 5.73 GB
    assert str(facts.quantisation) == "AWQ 4-bit"


def test_nf4_and_mxfp4_hold_two_weights_in_a_byte() -> None:
    nf4 = {
        "a.weight": Tensor("U8", (500, 1), 500),
        "a.weight.absmax": Tensor("U8", (16,), 16),
        "a.weight.quant_map": Tensor("F32", (16,), 64),
        "a.weight.quant_state.bitsandbytes__nf4": Tensor("U8", (80,), 80),
    }
    assert parameters(nf4, 4) == 1000
    mxfp4 = {"a_blocks": Tensor("U8", (2, 16), 32), "a_scales": Tensor("U8", (2,), 2), "a_bias": bf16(4)}
    assert parameters(mxfp4, 4) == 68


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # mistralai/Mistral-7B-v0.1: every layer slides.
    (
        {"num_hidden_layers": 32, "sliding_window": 4096},
        {"sliding_window": 4096, "sliding_layers": 32, "full_layers": 0},
    ),
    # Qwen/Qwen2.5-72B-Instruct: a window that is switched off.
    (
        {"num_hidden_layers": 80, "sliding_window": 131072, "use_sliding_window": False, "model_type": "qwen2"},
        {"sliding_window": None, "sliding_layers": 0, "full_layers": 80},
    ),
    # google/gemma-2-9b: every second layer; google/gemma-3: five of six, in the text part of its config.
    (
        {"num_hidden_layers": 42, "sliding_window": 4096, "model_type": "gemma2", "head_dim": 256},
        {"sliding_layers": 21, "full_layers": 21, "head_dim": 256, "tied_embeddings": True},
    ),
    (
        {"text_config": {"num_hidden_layers": 34, "sliding_window": 1024, "model_type": "gemma3_text"}},
        {"layers": 34, "sliding_layers": 29, "full_layers": 5},
    ),
    # google/gemma-3-4b-it says no more of its text part than this; the rest are transformers' own figures.
    (
        {"text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "model_type": "gemma3_text"}},
        {"heads": 8, "kv_heads": 4, "head_dim": 256, "vocab": 262208, "context_tokens": 131072},
    ),
    # meta-llama/Llama-4-Maverick: experts in every second layer, and one that is shared; one layer of four sees all.
    (
        {
            "text_config": {
                "model_type": "llama4_text",
                "num_hidden_layers": 48,
                "attention_chunk_size": 8192,
                "num_local_experts": 128,
                "num_experts_per_tok": 1,
                "intermediate_size": 8192,
                "intermediate_size_mlp": 16384,
                "interleave_moe_layer_step": 2,
            }
        },
        {"experts": Experts(128, 1, 8192, 1, 24), "intermediate": 16384, "full_layers": 12},
    ),
    # openai/gpt-oss-20b lists its layers; Qwen3-Next keeps a cache in every fourth.
    (
        {"num_hidden_layers": 4, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 2},
        {"sliding_layers": 2, "full_layers": 2},
    ),
    ({"num_hidden_layers": 48, "full_attention_interval": 4}, {"stateful_layers": 36, "full_layers": 12}),
    ({"num_hidden_layers": 32, "attn_layer_period": 8, "attn_layer_offset": 4}, {"full_layers": 4}),  # Jamba
    # deepseek-ai/DeepSeek-V3
    (
        {
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 2048,
            "first_k_dense_replace": 3,
        },
        {"latent": Latent(512, 64, 128, 128, 1536), "experts": Experts(256, 8, 2048, 1, 3), "head_dim": 192},
    ),
    # mistralai/Mixtral-8x7B-v0.1
    (
        {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336},
        {"experts": Experts(8, 2, 14336, 0, 0)},
    ),
    (
        {"multi_query": True, "num_attention_heads": 71, "hidden_size": 4544},
        {"kv_heads": 1, "head_dim": 64},
    ),  # Falcon-7B
    ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, {"context_tokens": 8192}),
    # meta-llama/Llama-3.1-8B: its length holds after scaling.
    (
        {"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"context_tokens": 131072, "rope": "llama3 ×8"},
    ),
    (
        {"n_positions": 1024, "n_layer": 12, "n_embd": 768, "n_head": 12, "model_type": "gpt2"},
        {"layers": 12, "head_dim": 64},
    ),
    ({"torch_dtype": "torch.float16"}, {"dtype": "float16"}),
    ({}, {"missing": ("layers", "hidden", "vocab", "heads", "kv_heads", "head_dim")}),
]


@pytest.mark.parametrize(("config", "expected"), CASES)
def test_each_kind_of_config_is_understood(config: dict[str, Any], expected: dict[str, Any]) -> None:
    facts = facts_of(config)
    assert {name: getattr(facts, name) for name in expected} == expected


def test_the_tokenizer_may_make_the_context_shorter_and_never_longer() -> None:
    assert facts_of({"max_position_embeddings": 4096}, None, 1e30).context_tokens == 4096
    assert facts_of({"max_position_embeddings": 4096}, None, 2048).context_tokens == 2048


def test_the_weights_say_best_whether_embeddings_are_tied() -> None:
    assert facts_of({"tie_word_embeddings": False}, {"model.embed_tokens.weight": bf16(4, 4)}).tied_embeddings
    assert not facts_of({"tie_word_embeddings": True}, {"lm_head.weight": bf16(4, 4)}).tied_embeddings


METHODS: list[tuple[dict[str, Any], str, int | None]] = [
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ 4-bit", 4),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8", 8),
    ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}, "bitsandbytes NF4", 4),
    ({"load_in_8bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes 8-bit", 8),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
        },
        "compressed-tensors FP8",
        8,
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
        },
        "compressed-tensors 4-bit",
        4,
    ),
    ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}, "ModelOpt FP8", 8),
    ({"quant_method": "mxfp4"}, "MXFP4", 4),
    ({"quant_method": "new"}, "new", None),
]


@pytest.mark.parametrize(("config", "shown", "bits"), METHODS)
def test_each_method_of_quantisation_is_named(config: dict[str, Any], shown: str, bits: int | None) -> None:
    found = quantisation_of({"quantization_config": config})
    assert found is not None
    assert (str(found), found.bits) == (shown, bits)


def test_a_model_that_was_not_quantised_has_no_method() -> None:
    assert quantisation_of(LLAMA_3_8B) is None


def test_scales_for_the_kv_cache_are_noticed() -> None:
    config = {"quantization_config": {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}}
    assert quantisation_of(config) == Quantisation("fp8", 8, is_float=True, kv_cache_bits=8)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Llama-3-8B.Q4_K_M.gguf", "GGUF Q4_K_M"),
        ("model-IQ3_XXS.gguf", "GGUF IQ3_XXS"),
        ("model-q8_0-00001-of-00002.gguf", "GGUF Q8_0"),
        ("model-bf16.gguf", "GGUF BF16"),
        ("model.gguf", "GGUF"),
    ],
)
def test_a_gguf_file_is_named_after_its_quantisation(name: str, shown: str) -> None:
    assert str(gguf_quantisation(name)) == shown
    assert gguf_quantisation(name + ".txt") is None


def test_older_ways_to_say_the_quantisation_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 64}))
    assert read_facts(tmp_path).quantisation == Quantisation("gptq", 4, 64)


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"<html>a page of the proxy", (10).to_bytes(8, "little") + b"not JSON.."]
)
def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadWeights, match=r"model\.safetensors"):
        read_tensors(tmp_path)


def test_a_file_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    whole = safetensors({"a": ("F32", (100,))})
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(
        BadWeights, match=f"is cut off: it has {len(whole) - 1} bytes, and its header says {len(whole)}"
    ):
        read_tensors(tmp_path)


def test_weights_are_counted_once_where_they_are_there_twice(tmp_path: Path) -> None:
    for name in ("model.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(safetensors({"a": ("F32", (100,))}))
    assert parameters(read_tensors(tmp_path)) == 100


def test_a_gguf_file_says_itself_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "tiny.Q4_K_M.gguf").write_bytes(gguf())
    found = describe("acme/tiny", "", (), tmp_path, "")
    assert (found.architecture, found.context_tokens, found.parameters) == ("llama", 4096, 32)
    assert (found.quantisation, found.chat_template, found.problem) == ("GGUF Q4_K_M", "tiny.Q4_K_M.gguf", "")


def test_a_gguf_file_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(gguf()[:100])
    assert describe("acme/tiny", "", (), tmp_path, "").problem == "tiny.gguf is not a GGUF file, or is cut off"


def gguf() -> bytes:
    """The header of a GGUF file, as github.com/ggml-org/ggml/blob/master/docs/gguf.md has it."""

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little")

    def text(value: str) -> bytes:
        return number(len(value), 8) + value.encode()

    pairs = [
        text("general.architecture") + number(8, 4) + text("llama"),
        text("tokenizer.ggml.tokens") + number(9, 4) + number(8, 4) + number(2, 8) + text("a") + text("bc"),
        text("tokenizer.ggml.scores") + number(9, 4) + number(6, 4) + number(3, 8) + bytes(12),
        text("llama.context_length") + number(4, 4) + number(4096, 4),
        text("tokenizer.chat_template") + number(8, 4) + text("{{ messages }}"),
    ]
    tensor = text("token_embd.weight") + number(2, 4) + number(8, 8) + number(4, 8) + number(12, 4) + number(0, 8)
    return b"GGUF" + number(3, 4) + number(1, 8) + number(len(pairs), 8) + b"".join(pairs) + tensor
