"""Settings → how vLLM is started: its command line and environment. Pure.

vLLM's own options are used wherever it has them. What the user says after `--` (or in `engine_args`) wins over what
Forebay would say: an option named there is left out of ours.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from forebay.config.settings import Settings

# Ours, never the engine's: what callers and operators present to the gateway.
_OURS = ("API_KEYS", "ADMIN_KEYS", "API_KEY_LIMITS", "SECRET_KEY", "REDIS_URL", "DATABASE_URL", "UPSTREAM_API_KEY")
# vLLM's default of 5 s would close connections that the gateway is about to use.
KEEP_ALIVE_S = 300
CPU_KV_CACHE_GIB = 2
KEY_VARIABLE = "VLLM_API_KEY"
NO_HOST = "none.invalid"  # an empty list of hosts would allow all
CACHE_VARIABLE = "VLLM_CACHE_ROOT"
_NOT_COMPILED = ("--uds", "--host", "--port", "--otlp-traces-endpoint", "--allowed-media-domains")
# What would not do after `--`: the agent would ask elsewhere, or a process list would show the key.
_SETTINGS_INSTEAD = {
    "--host": "--engine-host",
    "--port": "--engine-port",
    "--uds": "--engine-host",
    "--api-key": "FOREBAY_UPSTREAM_API_KEY",
}


class NotEnoughDevices(Exception):
    """More GPUs are asked for than there are; the message says what to change."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to run. `env` is the whole environment; it may hold a Hugging Face token or a key and is never shown.

    `uds` is None for an engine that listens on TCP; `cache_dir` where the user keeps its compile cache elsewhere.
    """

    name: str
    served_model: str
    uds: str | None
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cache_dir: str | None = None

    def __repr__(self) -> str:
        return f"<EngineSpec {self.name} {self.served_model}>"

    @property
    def api_key(self) -> str | None:
        """The key that it asks for."""
        return self.env.get(KEY_VARIABLE) or None


def engine_spec(
    settings: Settings,
    *,
    model: str,
    served_model: str,
    python: str,
    uds: str | None,
    devices: Sequence[str],
    env: Mapping[str, str],
    model_args: Sequence[str] = (),
    name: str = "engine-0",
    version: str = "unknown",
    cache_root: Path | None = None,
) -> EngineSpec:
    """The way to start vLLM on `model`, which callers know as `served_model`, listening on the Unix socket `uds`.

    Without `uds` it listens where the settings say, and asks for the settings' key. `devices` are the GPUs it may use,
    none on a machine without; `model_args` are options that the model itself needs; `env` is the environment to start
    from; `version` is vLLM's, and `cache_root` where its compile caches are kept.
    """
    sleeps = settings.engine_sleep and uds is not None  # who reaches an engine on TCP could put it to sleep
    ours = [
        "--model",
        model,
        *_listening(settings, uds),
        "--served-model-name",
        served_model,
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        *(["--enable-per-request-metrics"] if settings.engine_timings else []),
        *_from_settings(settings),
        *_media_hosts(settings.media_hosts),
        *(["--otlp-traces-endpoint", settings.traces_url] if settings.traces_url is not None else []),
        *model_args,
        *([] if devices else ["--enforce-eager"]),
        *(["--enable-sleep-mode"] if sleeps else []),
    ]
    options = (*_without(ours, settings.engine_args), *settings.engine_args)
    environment = _environment(env, devices)
    if settings.traces_url is not None:
        environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = settings.otlp_protocol
        environment.setdefault("OTEL_SERVICE_NAME", "vllm")
    if sleeps:
        environment["VLLM_SERVER_DEV_MODE"] = "1"  # has /sleep and /wake_up
    if uds is None and settings.upstream_api_key is not None:
        environment[KEY_VARIABLE] = settings.upstream_api_key.get_secret_value()
    cache_dir = None
    if cache_root is not None and CACHE_VARIABLE not in environment:
        cache_dir = environment[CACHE_VARIABLE] = str(cache_root / cache_key(model, version, options))
    argv = (python, "-m", "vllm.entrypoints.openai.api_server", *options)
    return EngineSpec(name, served_model, uds, argv, environment, cache_dir)


def cache_key(model: str, version: str, options: Sequence[str]) -> str:
    """What a compile cache is good for: a model, a version of vLLM, and its options but for where it listens
    and where its spans go."""
    facts = json.dumps([model, version, _without(options, _NOT_COMPILED)])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def misplaced(engine_args: Sequence[str]) -> str | None:
    """What is wrong with the options that an agent's user gives to vLLM, if anything."""
    for part in engine_args:
        if part.startswith("--") and (instead := _SETTINGS_INSTEAD.get(_flag(part))) is not None:
            return f"{_flag(part)} is the agent's to say; use {instead} instead"
    return None


def _listening(settings: Settings, uds: str | None) -> list[str]:
    if uds is not None:
        return ["--uds", uds]
    return ["--host", settings.engine_host, "--port", str(settings.engine_port)]


def share_devices(devices: Sequence[str], needs: Sequence[int]) -> list[list[str]]:
    """Which GPUs each engine gets, `needs` being how many each wants: one alone gets all. Raises `NotEnoughDevices`."""
    if not devices or len(needs) == 1:
        return [list(devices) for _ in needs]
    if sum(needs) > len(devices):
        raise NotEnoughDevices(
            f"{len(needs)} engines need {sum(needs)} GPUs, and there are {len(devices)}; "
            "lower --replicas or --tensor-parallel-size"
        )
    ends = list(accumulate(needs))
    return [list(devices[end - need : end]) for need, end in zip(needs, ends, strict=True)]


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


def _media_hosts(hosts: Sequence[str]) -> list[str]:
    """Where it may fetch from, a second time: the gateway has looked already. It knows no suffixes."""
    if any(host.startswith("*") for host in hosts):
        return []
    return ["--allowed-media-domains", *(hosts or (NO_HOST,))]


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
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",  # to where nobody has allowed
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
