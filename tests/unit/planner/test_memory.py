"""The KV cache is to the byte; activations and the rest agree within 5% with what vLLM logged on real GPUs."""

from dataclasses import replace

import pytest

from forebay.models.facts import ModelFacts
from forebay.planner.memory import GIB, Cache, activation_bytes, cache_of, graph_bytes, other_bytes
from forebay.planner.weights import weights_of
from tests.unit.planner.asking import known


@pytest.mark.parametrize(
    ("name", "token_bytes"),
    [
        ("llama-2-7b", 2 * 32 * 32 * 128 * 2),  # 524,288 by hand
        ("llama-2-13b", 819_200),  # of the same shape OPT-13B, "800 KB": Kwon et al. 2023 (arXiv 2309.06180), 3.1
        ("llama-3-8b", 2 * 32 * 8 * 128 * 2),  # 131,072
        ("mixtral-8x7b", 131_072),
        ("qwen2.5-72b", 327_680),  # Zhao et al. 2025, Insights into DeepSeek-V3 (arXiv 2505.09343), table 1: 327.680 KB
        ("llama-3.1-405b", 516_096),  # the same table: 516.096 KB
        ("deepseek-v3", 70_272),  # the same table: 70.272 KB
        ("qwen2.5-7b", 2 * 28 * 4 * 128 * 2),
        ("gemma-2-9b", 2 * 42 * 8 * 256 * 2),
    ],
)
def test_a_token_takes_what_is_published(name: str, token_bytes: int) -> None:
    assert cache_of(known(name).facts).token_bytes == token_bytes


def test_a_quantised_cache_takes_half() -> None:
    facts = known("llama-3-8b").facts
    assert 2 * cache_of(facts, number_bytes=1).token_bytes == cache_of(facts).token_bytes


def test_heads_are_shared_out_until_each_gpu_has_one() -> None:
    facts = known("llama-3-70b").facts  # 8 of them
    assert [cache_of(facts, tensor).token_bytes for tensor in (1, 2, 8, 16)] == [327_680, 163_840, 40_960, 40_960]


def test_latent_attention_is_whole_on_each_gpu() -> None:
    facts = known("deepseek-v3").facts
    assert cache_of(facts, 8).token_bytes == cache_of(facts, 1).token_bytes


def test_stages_share_the_layers_out() -> None:
    assert cache_of(known("llama-3-70b").facts, 1, 3).full_layers == 27


def test_a_layer_with_a_window_keeps_no_more_than_that_and_one_step() -> None:
    cache = cache_of(known("mistral-7b-v0.1").facts)  # all 32 layers see 4,096 tokens
    assert cache.sequence_bytes(4096, 2048) == 4096 * 131_072
    assert cache.sequence_bytes(32768, 2048) == cache.sequence_bytes(100_000, 2048) == 6144 * 131_072


def test_where_every_other_layer_slides_half_of_the_cache_grows() -> None:
    cache = cache_of(known("gemma-2-9b").facts)
    assert (cache.full_layers, cache.sliding_layers) == (21, 21)
    assert cache.sequence_bytes(8192, 2048) == (8192 + 6144) * 21 * 2 * 8 * 256 * 2


def test_a_sequence_takes_whole_blocks() -> None:
    cache = Cache(full_layers=1, sliding_layers=0, window=0, layer_bytes=10)
    assert [cache.sequence_bytes(tokens, 2048) for tokens in (1, 16, 17)] == [160, 160, 320]


@pytest.mark.parametrize("room", [0, 159, 160, 1_000_000, 10**12])
def test_the_longest_text_fits_and_a_block_more_would_not(room: int) -> None:
    cache = Cache(full_layers=2, sliding_layers=1, window=100, layer_bytes=10)
    longest = cache.longest(room, 2048, 1_000_000)
    assert cache.sequence_bytes(longest, 2048) <= room
    assert longest == 1_000_000 or cache.sequence_bytes(longest + 16, 2048) > room


# What vLLM logged: total memory × utilisation, and what was left for the KV cache. CUDA graphs were not taken off then.


def left_for_cache(facts: ModelFacts, total_gib: float, share: float, chunk: int, sequences: int) -> float:
    weights = weights_of(facts).total
    return total_gib * GIB * share - weights - activation_bytes(facts, 1, chunk, sequences) - other_bytes(1)


def test_llama_3_8b_on_80_gb_has_the_cache_that_was_logged() -> None:
    """vLLM pull request 10511: 79.22 GiB × 0.90, weights 14.96, activations 1.26, KV cache 53.29 GiB."""
    facts = known("llama-3-8b").facts
    assert weights_of(facts).total / GIB == pytest.approx(14.96, rel=0.005)
    assert activation_bytes(facts, 1, 8192, 256) / GIB == pytest.approx(1.26, rel=0.05)
    assert left_for_cache(facts, 79.22, 0.90, 8192, 256) / GIB == pytest.approx(53.29, rel=0.05)


def test_llama_3_1_8b_on_an_l40s_has_the_cache_that_was_logged() -> None:
    """vLLM pull request 17122: 0.90, 1,024 sequences, the default then: GPU KV cache size 158,656 tokens."""
    facts = known("llama-3.1-8b").facts
    assert left_for_cache(facts, 44.39, 0.90, 2048, 1024) / 131_072 == pytest.approx(158_656, rel=0.05)


def test_llama_2_7b_on_80_gb_has_the_blocks_that_were_logged() -> None:
    """vLLM pull request 2031: an A100-80GB, 0.90, 7,351 blocks of 16 tokens."""
    facts = known("llama-2-7b").facts
    assert left_for_cache(facts, 79.14, 0.90, 4096, 256) / 524_288 == pytest.approx(7351 * 16, rel=0.05)


def test_the_forward_pass_of_llama_3_8b_peaks_as_was_logged() -> None:
    """vLLM pull request 9003: 1.098 GiB for 8,192 tokens and one sequence."""
    assert activation_bytes(known("llama-3-8b").facts, 1, 8192, 1) / GIB == pytest.approx(1.098, rel=0.05)


def test_each_gpu_has_its_share_of_what_is_wide() -> None:
    facts = known("llama-3-8b").facts
    assert activation_bytes(facts, 8, 8192, 1) < activation_bytes(facts, 1, 8192, 1) / 2


def test_numbers_of_4_bytes_double_the_forward_pass() -> None:
    facts = known("gemma-2-9b").facts
    assert activation_bytes(facts, 1, 8192, 1, 4) == pytest.approx(2 * activation_bytes(facts, 1, 8192, 1, 2), rel=1e-6)


def test_experts_that_a_token_goes_to_are_all_in_memory_at_once() -> None:
    facts = known("mixtral-8x7b").facts
    assert facts.experts is not None
    alone = replace(facts, experts=replace(facts.experts, per_token=1))
    assert activation_bytes(facts, 1, 8192, 1) > activation_bytes(alone, 1, 8192, 1)


@pytest.mark.parametrize(
    ("sequences", "sizes"), [(1, 2), (4, 4), (64, 3 + 16), (256, 3 + 31 + 17), (4096, 3 + 31 + 17)]
)
def test_graphs_are_captured_for_the_sizes_that_vllm_captures(sequences: int, sizes: int) -> None:
    """1, 2, 4, then by 8 up to 256, then by 16, up to twice the sequences or 512 (vLLM 0.32, config/vllm.py)."""
    assert graph_bytes(1000, sequences) == pytest.approx(sizes * 1000 * 0.35 * 1024**2)
