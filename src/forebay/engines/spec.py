"""Settings → how vLLM is started: its command line and environment. Pure.

vLLM's own options are used wherever it has them. What the user says after `--` (or in `engine_args`) wins over what
Forebay would say: an option named there is left out of ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forebay.config.settings import Settings

# Ours, never the engine's: what callers and operators present to the gateway.
_OURS = ("API_KEYS", "API_KEY_LIMITS", "SECRET_KEY", "REDIS_URL", "DATABASE_URL", "UPSTREAM_API_KEY")
# vLLM's default of 5 s would close connections that the gateway is about to use.
KEEP_ALIVE_S = 300
CPU_KV_CACHE_GIB = 2


class NotEnoughDevices(Exception):
    """More GPUs are asked for than there are; the message says what to change."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to run. `env` is the whole environment; it may hold a Hugging Face token and is never shown."""

    name: str
    served_model: str
    uds: str
    argv: tuple[str, ...]
    env: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<EngineSpec {self.name} {self.served_model}>"


def engine_spec(
    settings: Settings,
    *,
    model: str,
    served_model: str,
    python: str,
    uds: str,
    devices: Sequence[str],
    env: Mapping[str, str],
    model_args: Sequence[str] = (),
    name: str = "engine-0",
) -> EngineSpec:
    """The way to start vLLM on `model`, which callers know as `served_model`, listening on the Unix socket `uds`.

    `devices` are the GPUs it may use, none on a machine without; `model_args` are options that the model itself needs;
    `env` is the environment to start from.
    """
    ours = [
        "--model",
        model,
        "--uds",
        uds,
        "--served-model-name",
        served_model,
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        *_from_settings(settings),
        *model_args,
        *([] if devices else ["--enforce-eager"]),
    ]
    argv = (python, "-m", "vllm.entrypoints.openai.api_server", *_without(ours, settings.engine_args))
    return EngineSpec(name, served_model, uds, (*argv, *settings.engine_args), _environment(env, devices))


def share_devices(devices: Sequence[str], replicas: int, each: int) -> list[list[str]]:
    """Which GPUs each replica gets: one alone gets all, several get `each`. Raises `NotEnoughDevices`."""
    if not devices or replicas == 1:
        return [list(devices) for _ in range(replicas)]
    if replicas * each > len(devices):
        raise NotEnoughDevices(
            f"{replicas} replicas of {each} GPUs need {replicas * each}, and there are {len(devices)}; "
            "lower --replicas or --tensor-parallel-size"
        )
    return [list(devices[number * each : (number + 1) * each]) for number in range(replicas)]


def _from_settings(settings: Settings) -> list[str]:
    named = {
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--tensor-parallel-size": settings.tensor_parallel_size,
        "--quantization": settings.quantization,
        "--dtype": settings.dtype,
    }
    return [part for flag, value in named.items() if value is not None for part in (flag, str(value))]


def _without(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Our options less those that the user gives too, each with its value."""
    taken = {_flag(part) for part in theirs if part.startswith("--")}
    kept: list[str] = []
    dropping = False
    for part in ours:
        if part.startswith("--"):
            dropping = _flag(part) in taken
        if not dropping:
            kept.append(part)
    return kept


def _flag(part: str) -> str:
    """An option's name, however it is written: `--no-x` and `--x=1` are `--x`, `_` is `-`."""
    name = part.partition("=")[0].replace("_", "-")
    return "--" + name[5:] if name.startswith("--no-") else name


def _environment(env: Mapping[str, str], devices: Sequence[str]) -> dict[str, str]:
    kept = {name: value for name, value in env.items() if name not in _OURS and not name.startswith("FOREBAY_")}
    defaults = {
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_COLOR": "0",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if devices:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    else:
        defaults["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_KV_CACHE_GIB)
    return {**defaults, **kept}
