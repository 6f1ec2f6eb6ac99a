"""What an engine does before it is ready."""

from functools import partial
from pathlib import Path

from forebay.config.groups.group import ENGINES, Group, declare

setting = partial(declare, group="warmup")


class WarmupSettings(Group):
    warmup_prompts: tuple[str, ...] = setting(
        ("The capital of France is",),
        "Prompts generated before the engine is ready, one a line in the environment. What real ones have in common "
        "belongs here: it will be in the prefix cache.",
        roles=ENGINES,
        separator="\n",
        min_length=1,
        per_model=True,
    )
    warmup_tokens: int = setting(8, "Tokens generated for each of them.", roles=ENGINES, ge=1, le=4096, per_model=True)
    warmup_cache_dir: Path | None = setting(
        None,
        "Directory where engines keep compiled code between starts (VLLM_CACHE_ROOT is a directory in it for each "
        "model, version of vLLM and set of options); by default below FOREBAY_HOME, else ~/.cache/forebay/warmup.",
        roles=ENGINES,
    )
