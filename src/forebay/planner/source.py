"""A model's name → its facts: from a directory, a config.json, the Hugging Face cache, or the table of known models.

Nothing is downloaded. In the table are config.json's figures of models that everybody asks about, so that a plan can be
made without a network and without a licence accepted; a directory or a file always says more, and wins.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from forebay.models.default import NAME as DEFAULT
from forebay.models.default import model_cache
from forebay.models.facts import ModelFacts, facts_of, read_facts, read_json
from forebay.models.tensors import BadWeights

KNOWN = "known_models.json"


class ModelUnknown(Exception):
    """Nothing is known of the model; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model to plan for. `weight_block` is the side of the blocks that FP8 weights have scales for, where they do."""

    name: str
    facts: ModelFacts
    origin: str
    weight_block: int | None = None


def find_model(name: str, env: Mapping[str, str] = os.environ) -> Model:
    """What is known of a model. Raises `ModelUnknown`."""
    try:
        if (found := _on_disk(name, env)) is not None:
            return found
    except (BadWeights, OSError) as failure:
        raise ModelUnknown(f"model: {name} cannot be read: {failure}") from failure
    if (found := _known(name)) is not None:
        return found
    raise ModelUnknown(
        f"model: nothing is known of '{name}' here; name a directory that holds its config.json, or that file itself "
        f"(no weights are needed), or one of: {', '.join(sorted(known_models()))}"
    )


def known_models() -> dict[str, dict[str, Any]]:
    """The table: hub id → config.json's figures, other names and where they are from."""
    table: dict[str, dict[str, Any]] = json.loads(resources.files(__package__).joinpath(KNOWN).read_text())
    return table


def model_of(name: str, facts: ModelFacts, config: Mapping[str, Any], origin: str) -> Model:
    """A model of facts that are read already."""
    quantisation = config.get("quantization_config")
    block = quantisation.get("weight_block_size") if isinstance(quantisation, Mapping) else None
    return Model(name, facts, origin, int(max(block)) if isinstance(block, list) and block else None)


def _on_disk(name: str, env: Mapping[str, str]) -> Model | None:
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            raise ModelUnknown(f"model: vLLM 0.32 does not have GGUF; plan {name}'s original, AWQ, GPTQ or FP8 by name")
        if path.name == "config.json" and any(path.parent.glob("*.safetensors")):
            return _directory(str(path.parent), path.parent)
        config = read_json(path)
        return model_of(str(path.parent), facts_of(config), config, f"{path}, without weights")
    if path.is_dir():
        return _directory(name, path)
    if name == "default" and (model_cache(env) / DEFAULT / "config.json").is_file():
        return _directory(name, model_cache(env) / DEFAULT)
    snapshot = _snapshot(name, env)
    return _directory(name, snapshot) if snapshot is not None else None


def _directory(name: str, path: Path) -> Model:
    facts = read_facts(path)
    weights = "config.json and safetensors headers" if facts.weight_bytes else "config.json"
    return model_of(name, facts, read_json(path / "config.json"), f"{weights} in {path}")


def _snapshot(name: str, env: Mapping[str, str]) -> Path | None:
    """Where the Hugging Face cache has the model, if it has it."""
    if name.count("/") != 1:
        return None
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface").expanduser()
    folder = (Path(env["HF_HUB_CACHE"]) if env.get("HF_HUB_CACHE") else home / "hub") / (
        "models--" + name.replace("/", "--")
    )
    main = folder / "refs" / "main"
    revision = main.read_text().strip() if main.is_file() else ""
    path = folder / "snapshots" / revision
    return path if revision and (path / "config.json").is_file() else None


def _known(name: str) -> Model | None:
    wanted = name.lower().rpartition("/")[2]
    for hub_id, entry in known_models().items():
        if wanted in {hub_id.lower().rpartition("/")[2], *entry.get("also", [])}:
            said = name if "/" in name else hub_id
            return model_of(said, facts_of(entry["config"]), entry["config"], f"built-in figures ({entry['source']})")
    return None
