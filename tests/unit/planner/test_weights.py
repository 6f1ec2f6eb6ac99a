"""What is counted from a model's shape is what its makers published, and what one GPU holds adds up."""

from dataclasses import replace

import pytest

from forebay.models.quantisation import Quantisation
from forebay.planner.weights import FP8_ON_LOAD, each_layer, quantised_bytes, weights_of
from tests.unit.planner.asking import known

# Billions of parameters, as Hugging Face counts them in the safetensors files ("Model size" on each model's page).
PARAMETERS = {
    "llama-2-7b": 6.738,  # and Touvron et al. 2023 (arXiv 2307.09288): 7B, 13B, 70B
    "llama-2-13b": 13.016,
    "llama-2-70b": 68.977,
    "llama-3-8b": 8.030,
    "llama-3-70b": 70.554,
    "llama-3.1-405b": 405.854,
    "mistral-7b": 7.242,
    "mistral-7b-v0.3": 7.248,
    "mixtral-8x7b": 46.703,  # mistral.ai/news/mixtral-of-experts: "46.7B total parameters"
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-7b": 7.616,
    "qwen2.5-14b": 14.770,
    "qwen2.5-32b": 32.764,
    "qwen2.5-72b": 72.706,
    "phi-3-mini": 3.821,
    "gemma-2-9b": 9.242,
    "gemma-2-27b": 27.227,
    "deepseek-v3": 671.026,  # DeepSeek-V3 technical report (arXiv 2412.19437): 671B, 37B for each token
    "default": 0.1345,
}
# Gigabytes (10^9), of a whole checkpoint.
SIZES = {
    "llama-2-7b": 13.5,  # 6.738 B × 2
    "llama-2-70b": 138.0,
    "llama-3-8b": 16.06,  # vLLM pull request 10511: "model weights take 14.96GiB"
    "mistral-7b-awq": 4.15,  # model card of TheBloke/Mistral-7B-Instruct-v0.2-AWQ
    "llama-2-70b-awq": 36.61,  # model card of TheBloke/Llama-2-70B-Chat-AWQ
    "mixtral-8x7b": 93.4,
    "deepseek-v3": 671.0,  # FP8: a byte a parameter
}


@pytest.mark.parametrize(("name", "billions"), PARAMETERS.items())
def test_parameters_are_those_published(name: str, billions: float) -> None:
    assert weights_of(known(name).facts).parameters / 1e9 == pytest.approx(billions, rel=0.002)


@pytest.mark.parametrize(("name", "gigabytes"), SIZES.items())
def test_weights_take_what_is_published(name: str, gigabytes: float) -> None:
    model = known(name)
    assert weights_of(model.facts, None, model.weight_block).total / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("mixtral-8x7b", 12.9),  # mistral.ai/news/mixtral-of-experts: "only uses 12.9B parameters per token"
        ("deepseek-v3", 37.0),  # arXiv 2412.19437
        ("llama-3-8b", 8.03),
    ],
)
def test_a_token_reads_the_parameters_published_as_active(name: str, billions: float) -> None:
    weights = weights_of(known(name).facts)
    assert weights.active_share * weights.parameters / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3-70b", "qwen2.5-72b", "mixtral-8x7b"])
def test_what_all_gpus_hold_is_the_whole_while_each_has_a_key_and_value_head(name: str) -> None:
    weights = weights_of(known(name).facts)
    for tensor in (1, 2, 4, 8):
        assert tensor * weights.on_one_gpu(tensor, 1) == pytest.approx(weights.total, rel=0.001)


def test_key_and_value_heads_are_held_twice_by_twice_as_many_gpus() -> None:
    weights = weights_of(known("llama-3-70b").facts)
    copies = 16 * weights.on_one_gpu(16, 1) - weights.total
    assert copies == pytest.approx(80 * 2 * 8192 * 8 * 128 * 2, rel=0.02)  # and the norms, 15 times more


def test_the_last_stage_of_a_pipeline_holds_the_output_layer_and_its_share_of_layers() -> None:
    facts = known("llama-3-70b").facts
    weights = weights_of(facts)
    assert weights.on_one_gpu(1, 3) == pytest.approx(
        27 * weights.split + 27 * weights.by_kv_head + 128256 * 8192 * 2, rel=0.001
    )


def test_headers_say_the_size_and_the_shape_only_how_it_is_shared() -> None:
    facts = replace(known("mistral-7b-awq").facts, weight_bytes=5_000_000_000)
    assert weights_of(facts).total == pytest.approx(5_000_000_000)


def test_a_model_in_float32_is_loaded_in_16_bits() -> None:
    facts = replace(
        known("llama-2-7b").facts, dtype="float32", parameters=6_738_415_616, weight_bytes=4 * 6_738_415_616
    )
    assert weights_of(facts).total == pytest.approx(13.48e9, rel=0.001)
    assert weights_of(facts, dtype_bytes=4).total == pytest.approx(26.95e9, rel=0.001)


def test_fp8_while_loading_halves_all_but_the_tables() -> None:
    facts = known("llama-3-8b").facts
    tables = 2 * 128256 * 4096
    assert weights_of(facts, FP8_ON_LOAD).total == pytest.approx((8.030e9 - tables) + 2 * tables, rel=0.001)


def test_layers_before_the_first_sparse_one_are_dense() -> None:
    layers = list(each_layer(known("deepseek-v3").facts))
    assert [layer.split == layers[0].split for layer in layers[:5]] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("method", "block", "expected"),
    [
        (Quantisation("awq", 4, 128), None, 0.5 + 2.5 / 128),  # 16 bits of scale, 4 of zero point
        (Quantisation("gptq", 8, 32), None, 1 + 3 / 32),
        (Quantisation("fp8", 8, is_float=True), 128, 1 + 4 / 16384),
        (Quantisation("fp8", 8, is_float=True), None, 1.0),
        (Quantisation("mxfp4", 4, is_float=True), None, 0.5 + 1 / 32),  # 8 bits of scale for 32
    ],
)
def test_scales_and_zero_points_are_counted(method: Quantisation, block: int | None, expected: float) -> None:
    assert quantised_bytes(method, block) == pytest.approx(expected)
