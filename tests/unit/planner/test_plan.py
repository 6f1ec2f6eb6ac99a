"""Plans that those who run these models would accept, and what is said where there is none."""

from dataclasses import replace

import pytest

from forebay.models.quantisation import Quantisation
from forebay.planner.advice import proposals
from forebay.planner.formats import CannotRun, formats_for
from forebay.planner.gpus import CPU, DEVICES, UnknownDevice, device_named
from forebay.planner.memory import GIB
from forebay.planner.parallel import Shape
from forebay.planner.plan import Ask, Misfit, Plan, make_plan
from forebay.planner.profiles import Goal
from forebay.planner.words import reasons
from tests.unit.planner.asking import asked, known, planned

LAPTOP = replace(CPU, memory_gib=16.0)


@pytest.mark.parametrize(
    ("name", "gpu", "count", "shape"),
    [
        ("llama-2-7b", "A100-40GB", 1, Shape(1, 1, 1, 1)),
        ("llama-2-13b", "A100-40GB", 1, Shape(1, 1, 1, 1)),
        ("llama-2-70b", "A100-80GB", 4, Shape(4, 1, 1, 1)),
        ("llama-3-8b", "L4", 1, Shape(1, 1, 1, 1)),
        ("llama-3-8b", "A100-40GB", 4, Shape(1, 1, 4, 1)),  # copies, not splits, where each serves its share
        ("llama-3-70b", "H100", 4, Shape(4, 1, 1, 1)),
        ("llama-3-70b", "H100", 8, Shape(4, 1, 2, 1)),
        ("mixtral-8x7b", "A100-80GB", 2, Shape(2, 1, 1, 1)),
        ("mixtral-8x7b", "H100", 2, Shape(2, 1, 1, 1)),
        ("qwen2.5-72b", "A100-80GB", 4, Shape(4, 1, 1, 1)),
        ("qwen2.5-72b", "H100", 4, Shape(4, 1, 1, 1)),
        ("deepseek-v3", "H200", 8, Shape(8, 1, 1, 1)),
        ("mistral-7b-awq", "T4", 1, Shape(1, 1, 1, 1)),
    ],
)
def test_known_models_are_placed_as_people_place_them(name: str, gpu: str, count: int, shape: Shape) -> None:
    assert planned(name, gpu, count).shape == shape


def test_llama_2_70b_on_four_a100_40gb_is_tight_and_what_would_serve_it_is_said() -> None:
    """138 GB of weights on 4 × 39.4 GiB leave under 2 GiB each for the KV cache."""
    plan = planned("llama-2-70b", "A100-40GB", 4, context=4096, concurrency=256)
    assert plan.shape == Shape(4, 1, 1, 1)
    assert not plan.is_enough
    assert plan.memory.weights / GIB == pytest.approx(137.95e9 / 4 / GIB, rel=0.01)
    assert 1 < plan.full_sequences < 8
    assert plan.memory.cache < 2 * GIB
    words = [one.words for one in proposals(plan)]
    assert words[:3] == ["a 4-bit checkpoint (AWQ or GPTQ)", "--count 8", "--gpu A100-80GB"]
    assert all(one.plan.is_enough for one in proposals(plan))


def test_mistral_awq_on_a_t4_is_float16_on_triton_with_8k_of_its_32k() -> None:
    plan = planned("mistral-7b-awq", "T4")
    assert (plan.formats.dtype, plan.formats.backend, plan.context) == ("half", "TRITON_ATTN", 8192)
    assert plan.sequences > 16
    assert plan.full_sequences >= 8
    assert planned("mistral-7b-awq", "T4", goal=Goal.long_context).context == 32768


def test_latency_spreads_one_copy_and_reads_prompts_in_small_steps() -> None:
    plan = planned("llama-3-8b", "H100", 4, goal=Goal.latency)
    assert (plan.shape, plan.chunk) == (Shape(4, 1, 1, 1), 2048)
    alone = planned("llama-3-8b", "H100", 1, goal=Goal.latency)
    assert plan.step_s is not None
    assert alone.step_s is not None
    assert plan.step_s < alone.step_s / 2


def test_a_small_model_is_not_spread_where_talking_takes_longer_than_reading() -> None:
    assert planned("default", "T4", 3, goal=Goal.latency).shape.tensor == 1
    assert planned("mistral-7b-awq", "T4", 2, goal=Goal.latency).shape.tensor == 2


def test_a_long_context_is_cut_to_what_fits_only_where_nobody_asked_for_it() -> None:
    plan = planned("llama-3.1-8b", "L4", goal=Goal.long_context)
    assert plan.context == 32768
    found = asked("llama-3.1-8b", "L4", context=131072)
    assert isinstance(found, Misfit)
    assert 32768 < found.longest < 65536
    assert isinstance(asked("llama-3.1-8b", "L4", context=found.longest), Plan)
    assert isinstance(asked("llama-3.1-8b", "L4", context=found.longest + 16), Misfit)


def test_a_model_too_large_for_a_node_goes_over_two_with_ray() -> None:
    assert isinstance(asked("deepseek-v3", "H100", 8), Misfit)
    assert planned("deepseek-v3", "H100", 8, 2).shape == Shape(8, 2, 1, 2)
    assert planned("llama-3.1-405b", "H100", 8, 2).shape == Shape(8, 2, 1, 2)


def test_a_model_that_fits_a_node_is_copied_to_each() -> None:
    assert planned("llama-3-70b", "H100", 4, 2).shape == Shape(4, 1, 2, 1)


def test_more_than_the_model_has_is_not_planned_for() -> None:
    assert planned("llama-2-7b", "A100-40GB", context=100_000).context == 4096


def test_concurrency_is_shared_out_over_the_copies() -> None:
    plan = planned("llama-3-8b", "A100-40GB", 4, concurrency=101)
    assert (plan.sequences, plan.shape.replicas) == (26, 4)
    assert plan.is_enough


def test_small_devices_keep_memory_for_the_driver() -> None:
    assert planned("mistral-7b-awq", "T4").share == 0.91
    assert planned("llama-3-8b", "A100-80GB").share == 0.92
    assert planned("llama-3-70b", "A100-80GB", 4).share == 0.90


def test_steps_are_those_of_vllm_on_each_device() -> None:
    chunks = {device.name: planned("llama-3-8b", device.name, 2, concurrency=1).chunk for device in DEVICES}
    assert {name: size for name, size in chunks.items() if size != 2048} == {"H100": 8192, "H200": 8192, "B200": 16384}


# What a device can do


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_gpu_serves_a_small_model_in_formats_it_has(device: object) -> None:
    plan = planned("qwen2.5-0.5b", getattr(device, "name", ""))
    old = plan.ask.device.capability < (8, 0)
    assert (plan.formats.dtype, plan.formats.backend) == (("half", "TRITON_ATTN") if old else (None, None))


def test_a_model_that_overflows_in_float16_takes_four_bytes_on_a_t4() -> None:
    plan = planned("gemma-2-9b", "T4", 4)
    assert plan.formats.dtype == "float32"
    assert plan.weights.total == pytest.approx(4 * 9.2414e9, rel=0.001)
    assert planned("gemma-2-9b", "L4").weights.total == pytest.approx(2 * 9.2414e9, rel=0.001)


def test_what_needs_float32_is_not_quantised() -> None:
    """vLLM refuses float32 with every method (`get_supported_act_dtypes`)."""
    with pytest.raises(CannotRun, match="T4 has no bf16, gemma2 overflows in float16, and fp8 does not compute in"):
        asked("gemma-2-9b", "T4", 4, on_load="fp8")
    assert not [one for one in proposals(asked("gemma-2-27b", "T4", 4)) if "fp8" in one.words or "AWQ" in one.words]


def test_where_config_json_does_not_say_how_far_a_model_goes_the_plan_says_so() -> None:
    model = known("llama-3-8b")
    model = replace(model, facts=replace(model.facts, context_tokens=0))
    for context, planned_for in ((None, 2048), (4096, 4096)):
        plan = make_plan(model, Ask(device_named("L4"), context=context))
        assert isinstance(plan, Plan)
        assert plan.context == planned_for
        assert any("config.json does not say how far the model goes" in why for why in reasons(plan))


def test_awq_wants_turing_and_gptq_runs_on_volta() -> None:
    with pytest.raises(CannotRun, match=r"awq needs compute capability 7\.5, and V100-16GB has 7\.0; take a GPTQ"):
        asked("mistral-7b-awq", "V100-16GB")
    model = known("mistral-7b-awq")
    gptq = replace(model, facts=replace(model.facts, quantisation=Quantisation("gptq", 4, 128)))
    found = make_plan(gptq, Ask(device_named("v100")))
    assert isinstance(found, Plan)
    assert any("a V100 needs an older vLLM" in warning for warning in found.formats.warnings)


def test_a_quantised_cache_wants_fp8() -> None:
    assert planned("llama-3-8b", "L4", kv_dtype="fp8").formats.kv_bytes == 1
    with pytest.raises(CannotRun, match="A100-40GB has no FP8"):
        asked("llama-3-8b", "A100-40GB", kv_dtype="fp8")


def test_a_checkpoint_with_scales_for_its_cache_has_it_quantised_where_the_gpu_can() -> None:
    model = known("llama-3-8b")
    scaled = replace(model, facts=replace(model.facts, quantisation=Quantisation("fp8", 8, kv_cache_bits=8)))
    assert formats_for(scaled, device_named("H100")).kv_dtype == "fp8"
    assert formats_for(scaled, device_named("A100-40GB")).kv_dtype is None


def test_what_is_quantised_is_not_quantised_again() -> None:
    with pytest.raises(CannotRun, match="the model is quantised already"):
        asked("mistral-7b-awq", "L4", on_load="fp8")


def test_fp8_on_an_a100_saves_memory_and_no_time() -> None:
    plan = planned("llama-3-70b", "A100-80GB", 2, on_load="fp8")
    assert any("memory is saved, not time" in warning for warning in plan.formats.warnings)


@pytest.mark.parametrize("method", ["gguf", "bitsandbytes"])
def test_methods_that_vllm_no_longer_has_are_refused(method: str) -> None:
    model = known("llama-3-8b")
    with pytest.raises(CannotRun, match=f"does not have '{method}'"):
        formats_for(replace(model, facts=replace(model.facts, quantisation=Quantisation(method, 4))), DEVICES[0])


def test_models_with_a_state_are_refused_rather_than_reckoned_wrong() -> None:
    model = known("llama-3-8b")
    with pytest.raises(CannotRun, match="24 of 32 layers keep a state"):
        formats_for(replace(model, facts=replace(model.facts, stateful_layers=24)), device_named("H100"))


def test_latent_attention_that_vllm_unpacks_is_refused() -> None:
    model = known("deepseek-v3")
    with pytest.raises(CannotRun, match="latent attention of 'minicpm3' is not known"):
        formats_for(replace(model, facts=replace(model.facts, model_type="minicpm3")), device_named("H100"))


def test_a_config_that_does_not_say_enough_is_refused() -> None:
    model = known("llama-3-8b")
    with pytest.raises(CannotRun, match="does not say its layers"):
        formats_for(replace(model, facts=replace(model.facts, layers=0)), device_named("H100"))


# A CPU


def test_a_cpu_gets_the_cache_that_is_of_use_in_whole_gib() -> None:
    found = make_plan(known("default"), Ask(LAPTOP))
    assert isinstance(found, Plan)
    assert found.sequences == 32
    assert found.memory.cache == 2 * GIB
    assert found.memory.graphs == 0
    assert found.step_s is None


def test_a_model_larger_than_the_machine_does_not_fit_it() -> None:
    found = make_plan(known("llama-3-8b"), Ask(LAPTOP))
    assert isinstance(found, Misfit)
    assert [one.words for one in proposals(found)] == ["a 4-bit checkpoint (AWQ or GPTQ)"]


# Names


@pytest.mark.parametrize(
    ("said", "name"),
    [("a100-40gb", "A100-40GB"), ("NVIDIA L40S", "L40S"), ("Tesla T4", "T4"), ("h100_80gb", "H100"), ("cpu", "CPU")],
)
def test_gpus_have_the_names_that_people_use(said: str, name: str) -> None:
    assert device_named(said).name == name


@pytest.mark.parametrize(("said", "named"), [("A100", "A100-40GB, A100-80GB"), ("MI300X", "T4, V100-16GB"), ("", "T4")])
def test_an_unknown_gpu_is_answered_with_those_there_are(said: str, named: str) -> None:
    with pytest.raises(UnknownDevice, match=named):
        device_named(said)
