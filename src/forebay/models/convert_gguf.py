"""Turn one GGUF file into a model directory that vLLM loads: safetensors, tokenizer, chat template.

Runs by path in the engine's Python, whose packages (torch, transformers, gguf) Forebay itself does not have,
and so imports nothing of Forebay: `python convert_gguf.py MODEL.gguf DIRECTORY`. Prints one line a step.
Needs no network.
"""

import json
import os
import sys
from pathlib import Path


def convert(gguf: Path, directory: Path) -> None:
    """Write the model of `gguf` into `directory`, its quantised weights expanded to bfloat16."""
    print("loading torch and transformers", flush=True)
    import torch  # type: ignore[import-not-found]
    from transformers import (  # type: ignore[import-not-found]
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        GgufConfig,
        logging,
    )

    logging.set_verbosity_error()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}

    print("expanding the weights", flush=True)
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )

    print("reading the tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(**source, model_max_length=config.max_position_embeddings)
    if not tokenizer.chat_template:
        raise SystemExit(f"{gguf.name} has no chat template")
    if tokenizer.eos_token_id != config.eos_token_id:
        raise SystemExit(f"{gguf.name}: the model ends with token {config.eos_token_id}, its tokenizer does not")

    print("writing the model", flush=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    split_digits(directory / "tokenizer.json")


def split_digits(tokenizer_json: Path) -> None:
    """Give the tokenizer its first step back: every digit a piece of its own.

    GGUF only names the pre-tokenizer ("smollm"), and transformers makes the usual byte-level one of it, which
    cuts the spaces before a number differently from what the model was trained on.
    """
    tokenizer = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, {**tokenizer["pre_tokenizer"], "add_prefix_space": False}],
    }
    tokenizer_json.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
