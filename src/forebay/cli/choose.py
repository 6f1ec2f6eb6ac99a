"""What `serve` and `engine` find out before an engine can be started: its Python, its model, its GPUs, its cache."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.options import EXIT_USAGE, fail
from forebay.config.places import cache_directory
from forebay.config.settings import Settings
from forebay.engines.installed import engine_version
from forebay.engines.spec import EngineSpec, engine_spec
from forebay.models.default import DEFAULT_MODEL, ENGINE_ARGS, default_model, model_cache

# What `serve` and `engine` both take on the command line.
ModelArgument = Annotated[
    str | None, typer.Argument(help="Hugging Face id, directory, or 'default' for the packaged small model.")
]
EngineArguments = Annotated[
    list[str] | None, typer.Argument(help="vLLM's own options, after `--`.", metavar="[-- VLLM OPTIONS]")
]


@dataclass(frozen=True)
class Choice:
    """Everything about an engine but its name, its address and its GPUs."""

    settings: Settings
    python: Path
    version: str
    model: str
    served_model: str
    model_args: tuple[str, ...]
    cache_root: Path | None

    def spec(self, name: str, uds: str | None, devices: Sequence[str]) -> EngineSpec:
        """How to start it."""
        return engine_spec(
            self.settings,
            name=name,
            model=self.model,
            served_model=self.served_model,
            python=str(self.python),
            uds=uds,
            devices=devices,
            env=os.environ,
            model_args=self.model_args,
            version=self.version,
            cache_root=self.cache_root,
        )


def with_engine_args(settings: Settings, engine_args: Sequence[str] | None) -> Settings:
    """The settings with the options given after `--` added."""
    return settings.model_copy(update={"engine_args": (*settings.engine_args, *(engine_args or ()))})


def named_model(settings: Settings, model: str | None, command: str) -> str:
    """The model that the command or the settings name; ends the process where neither does."""
    chosen = model or settings.model
    if chosen is None:
        fail(f"model: name one, as in `forebay {command} default`, or set MODEL_NAME", EXIT_USAGE)
    return chosen


def choose(settings: Settings, model: str) -> Choice:
    """Make the model ready and see what runs it. Raises `ModelUnavailable` or OSError."""
    python = engine_python(settings)
    model_args: tuple[str, ...] = ()
    name = settings.served_model_name
    if model == DEFAULT_MODEL:
        path = default_model(python, model_cache(), lambda line: typer.echo(f"forebay: {line}"))
        model, model_args, name = str(path), ENGINE_ARGS, name or path.name
    elif model.startswith(("/", "./", "../", "~")):
        path = Path(model).expanduser()
        if not path.is_dir():
            raise OSError(f"there is no directory {path}")
        model, name = str(path), name or path.resolve().name
    return Choice(settings, python, engine_version(python), model, name or model, model_args, _cache_root(settings))


def engine_python(settings: Settings) -> Path:
    """The Python that has vLLM."""
    if settings.engine_python is not None:
        return settings.engine_python
    beside = Path(sys.prefix) / "engine" / "bin" / "python"
    return beside if beside.exists() else Path(sys.executable)


def gpu_devices(env: Mapping[str, str]) -> list[str]:
    """The GPUs that engines may use: those that CUDA_VISIBLE_DEVICES names, else all that the driver lists."""
    if (named := env.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    if (nvidia_smi := shutil.which("nvidia-smi")) is None:
        return []
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def _cache_root(settings: Settings) -> Path | None:
    """Where compile caches are kept; None, which leaves them to vLLM, where nothing can be written there."""
    try:
        root = (settings.warmup_cache_dir or cache_directory("warmup")).expanduser().absolute()
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
        why = f"{root} cannot be written to"
    except (OSError, RuntimeError) as failure:  # RuntimeError: a user without a home
        why = str(failure)
    typer.secho(f"forebay: warmup_cache_dir: compiled code is kept where vLLM keeps it: {why}", fg="yellow", err=True)
    return None
