"""The engine we start."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from forebay.config.groups.group import ALL, ENGINES, SERVE, Group, Seconds, declare

setting = partial(declare, group="engine")


class EngineSettings(Group):
    model: str | None = setting(
        None,
        "Model to serve: a Hugging Face id, a directory, or 'default' for the packaged small one.",
        roles=(),
        aliases=("MODEL_NAME", "MODEL_PATH"),
        per_model=True,
    )
    replicas: int = setting(
        1,
        "Engines to run side by side; GPUs are shared out among them.",
        roles=SERVE,
        ge=1,
        le=64,
        per_model=True,
    )
    models: tuple[dict[str, Any], ...] = setting(
        (),
        "Several models instead of one: a table [[models]] for each, with `model` and any of the settings that each "
        "may have of its own; the others hold for all. JSON in the environment.",
        roles=(),
    )
    model_group: str = setting(
        "default",
        "Group that a model's engines are in; two entries with one served_model_name and different groups are versions "
        "side by side, which group_weights shares the requests out among.",
        roles=(),
        per_model=True,
        min_length=1,
    )
    served_model_name: str | None = setting(None, "Name that callers use for the model.", roles=ENGINES, per_model=True)
    engine_python: Path | None = setting(
        None,
        "Python that has vLLM installed; by default .venv/engine beside Forebay's own, else Forebay's own.",
        roles=ENGINES,
    )
    engine_args: tuple[str, ...] = setting(
        (), "More options for vLLM, as on its command line (also after `--`).", roles=(), per_model=True
    )
    max_model_len: int | None = setting(
        None,
        "Context length, tokens (vLLM --max-model-len).",
        roles=ENGINES,
        aliases=("MAX_MODEL_LEN",),
        ge=1,
        per_model=True,
    )
    max_num_seqs: int | None = setting(
        None,
        "Sequences in a batch (vLLM --max-num-seqs).",
        roles=ENGINES,
        aliases=("MAX_NUM_SEQS",),
        ge=1,
        per_model=True,
    )
    gpu_memory_utilization: float | None = setting(
        None,
        "Share of GPU memory to use (vLLM --gpu-memory-utilization).",
        roles=ENGINES,
        aliases=("GPU_MEMORY_UTILIZATION",),
        gt=0,
        le=1,
        per_model=True,
    )
    tensor_parallel_size: int | None = setting(
        None,
        "GPUs one model is split over (vLLM --tensor-parallel-size).",
        roles=ENGINES,
        aliases=("TENSOR_PARALLEL_SIZE",),
        ge=1,
        per_model=True,
    )
    quantization: str | None = setting(
        None,
        "Quantisation method (vLLM --quantization).",
        roles=ENGINES,
        aliases=("QUANTIZATION",),
        per_model=True,
    )
    dtype: str | None = setting(None, "Number format of weights (vLLM --dtype).", roles=ENGINES, per_model=True)
    engine_start_timeout_s: Seconds = setting(
        1800.0,
        "Time from starting the engine to its first healthy answer, seconds.",
        roles=ENGINES,
    )
    engine_warm_timeout_s: Seconds = setting(600.0, "Time for the warm-up after that, seconds.", roles=ENGINES)
    engine_stop_timeout_s: Seconds = setting(
        10.0, "Time between asking the engine to end and killing it, seconds.", roles=ENGINES
    )
    engine_backoff_max_s: Seconds = setting(
        60.0, "Longest pause before a crashed engine is started again, seconds.", roles=ENGINES
    )
    engine_crash_limit: int = setting(
        5,
        "Crashes within engine_crash_window_s after which it is given up: it is started again once after that time, "
        "then after twice as long, and so on, at least every hour.",
        roles=ENGINES,
        ge=1,
        le=1000,
    )
    engine_crash_window_s: Seconds = setting(600.0, "Window over which crashes are counted, seconds.", roles=ENGINES)
    runtime_dir: Path | None = setting(None, "Directory for sockets; a private temporary one by default.", roles=SERVE)
    idle_probe_s: Seconds = setting(
        30.0,
        "Time an engine may have nothing to do before it is asked for one token, to see that it still works, seconds.",
        roles=ALL,
    )
    engine_sleep: bool = setting(
        False,
        "Start engines with vLLM's sleep mode (GPUs): replaced in place, the old one sleeps, its memory given back, "
        "until the new one is ready, and is awake again within seconds where that fails.",
        roles=SERVE,
        per_model=True,
    )
    rollout: Literal["auto", "surge", "in_place"] = setting(
        "auto",
        "How an engine is replaced by one with other options: the new one beside the old one first (surge), or in its "
        "place once it has drained (in_place); auto is surge where memory allows it, and in_place on GPUs.",
        roles=SERVE,
    )
