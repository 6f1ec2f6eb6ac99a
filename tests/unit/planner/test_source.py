"""Where a model's figures are taken from, and what is said where there are none."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from forebay.planner.gpus import device_named
from forebay.planner.plan import Ask, Plan, make_plan
from forebay.planner.source import ModelUnknown, find_model, known_models

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}


def write(directory: Path, config: dict[str, Any], weight_bytes: int | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if weight_bytes is not None:
        entry = {"dtype": "BF16", "shape": [weight_bytes // 2], "data_offsets": [0, weight_bytes]}
        header = json.dumps({"model.embed_tokens.weight": entry}).encode()
        with (directory / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + weight_bytes)
    return directory


def test_a_directory_says_more_than_the_table_and_its_headers_say_the_size(tmp_path: Path) -> None:
    model = find_model(str(write(tmp_path / "m", CONFIG, 4_000_000)), {})
    assert model.facts.weight_bytes == 4_000_000
    assert model.origin.startswith("config.json and safetensors headers in")
    plan = make_plan(model, Ask(device_named("T4")))
    assert isinstance(plan, Plan)
    assert plan.weights.total == 4_000_000


def test_a_config_alone_is_enough(tmp_path: Path) -> None:
    file = write(tmp_path / "m", CONFIG) / "config.json"
    model = find_model(str(file), {})
    assert (model.name, model.facts.weight_bytes) == (str(file.parent), None)
    assert isinstance(make_plan(model, Ask(device_named("T4"))), Plan)


def test_the_hub_cache_is_looked_into_before_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B-Instruct"
    write(folder / "snapshots" / "abc", CONFIG)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for env in ({"HF_HOME": str(tmp_path)}, {"HF_HUB_CACHE": str(tmp_path / "hub")}):
        model = find_model("Qwen/Qwen2.5-7B-Instruct", env)
        assert (model.name, model.facts.layers) == ("Qwen/Qwen2.5-7B-Instruct", 2)
    assert find_model("Qwen/Qwen2.5-7B-Instruct", {"HF_HOME": str(tmp_path / "other")}).facts.layers == 28


def test_the_packaged_model_is_known_before_it_is_made(tmp_path: Path) -> None:
    assert find_model("default", {"FOREBAY_HOME": str(tmp_path)}).facts.layers == 30


def test_short_names_lead_to_the_hub_id_and_full_ones_stay() -> None:
    nowhere = {"HF_HOME": "/nowhere"}
    assert find_model("llama-3-8b", nowhere).name == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert find_model("Mistral-7B-AWQ", nowhere).name == "TheBloke/Mistral-7B-Instruct-v0.2-AWQ"
    assert find_model("mycompany/Llama-2-7b-hf", nowhere).name == "mycompany/Llama-2-7b-hf"


def test_every_name_in_the_table_is_there_once_and_has_a_source() -> None:
    names = [name for entry in known_models().values() for name in entry["also"]]
    assert len(names) == len(set(names))
    assert all(hub_id in entry["source"] for hub_id, entry in known_models().items())


def test_the_side_of_fp8_blocks_is_read() -> None:
    assert find_model("deepseek-v3", {"HF_HOME": "/nowhere"}).weight_block == 128


def test_an_unknown_model_is_answered_with_what_to_do() -> None:
    with pytest.raises(ModelUnknown, match="name a directory that holds its config"):
        find_model("someone/something", {"HF_HOME": "/nowhere"})


def test_a_gguf_file_is_answered_with_what_vllm_runs(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\xff")
    with pytest.raises(ModelUnknown, match=r"does not have GGUF; plan .*x\.gguf's original, AWQ"):
        find_model(str(tmp_path / "x.gguf"), {})


@pytest.mark.parametrize("text", ["{", "[]", '"text"'])
def test_a_config_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelUnknown, match=r"cannot be read: config\.json is not"):
        find_model(str(tmp_path), {})


def test_a_directory_without_a_config_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnknown, match=r"cannot be read: .*config\.json"):
        find_model(str(tmp_path), {})
