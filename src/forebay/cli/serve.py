"""`forebay serve MODEL`: a gateway and the engine it supervises, as separate processes over a Unix socket."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from pydantic import SecretStr

from forebay.cli.options import EXIT_USAGE, fail, with_settings_options
from forebay.cli.run import announce_address, base_url, prepare
from forebay.config.settings import Settings
from forebay.engines.spec import EngineSpec, NotEnoughDevices, engine_spec, share_devices
from forebay.models.default import ENGINE_ARGS, ModelUnavailable, default_model, model_cache
from forebay.serving import serve_engines

DEFAULT_MODEL = "default"
MADE_KEY_PREFIX = "sk-run-"


def _key_for_this_run(own: dict[str, Any]) -> dict[str, Any]:
    return {"api_keys": (SecretStr(MADE_KEY_PREFIX + secrets.token_urlsafe(24)),)} if own["new_key"] else {}


@with_settings_options("serve", _key_for_this_run)
def serve(
    settings: Settings,
    model: Annotated[
        str | None, typer.Argument(help="Hugging Face id, directory, or 'default' for the packaged small model.")
    ] = None,
    engine_args: Annotated[
        list[str] | None, typer.Argument(help="vLLM's own options, after `--`.", metavar="[-- VLLM OPTIONS]")
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Where no key is set, make one for this run and show it.")
    ] = False,
) -> None:
    """Start vLLM on a model and serve it:

    forebay serve default

    forebay serve Qwen/Qwen2.5-0.5B-Instruct --port 8000 -- --max-model-len 4096
    """
    model = model or settings.model
    if model is None:
        fail("model: name one, as in `forebay serve default`, or set MODEL_NAME", EXIT_USAGE)
    settings = settings.model_copy(update={"engine_args": (*settings.engine_args, *(engine_args or ()))})
    made = [key.get_secret_value() for key in settings.api_keys if new_key]
    shown_key = next((key for key in made if key.startswith(MADE_KEY_PREFIX)), None)
    python = engine_python(settings)
    with tempfile.TemporaryDirectory(prefix="forebay-") as private:
        try:
            specs = _specs(settings, model, python, settings.runtime_dir or Path(private))
        except (ModelUnavailable, NotEnoughDevices, OSError) as wrong:
            fail(f"model: {wrong}")
        _run(settings, specs, shown_key)


def engine_python(settings: Settings) -> Path:
    """The Python that has vLLM."""
    if settings.engine_python is not None:
        return settings.engine_python
    beside = Path(sys.prefix) / "engine" / "bin" / "python"
    return beside if beside.exists() else Path(sys.executable)


def _specs(settings: Settings, model: str, python: Path, directory: Path) -> list[EngineSpec]:
    """How to start each replica. Raises `ModelUnavailable`, `NotEnoughDevices` or OSError."""
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
    directory.mkdir(parents=True, exist_ok=True)
    devices = gpu_devices(os.environ)
    shares = share_devices(devices, settings.replicas, settings.tensor_parallel_size or 1)
    return [
        engine_spec(
            settings,
            name=f"engine-{number}",
            model=model,
            served_model=name or model,
            python=str(python),
            uds=str(directory / f"engine-{number}.sock"),
            devices=share,
            env=os.environ,
            model_args=model_args,
        )
        for number, share in enumerate(shares)
    ]


def gpu_devices(env: Mapping[str, str]) -> list[str]:
    """The GPUs that engines may use: those that CUDA_VISIBLE_DEVICES names, else all that the driver lists."""
    if (named := env.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    if (nvidia_smi := shutil.which("nvidia-smi")) is None:
        return []
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def _run(settings: Settings, specs: list[EngineSpec], shown_key: str | None) -> None:
    sock, writer = prepare(settings)
    announce_address(settings, sock)
    model, url = specs[0].served_model, base_url(settings, sock)
    what = "the engine" if len(specs) == 1 else f"{len(specs)} engines"
    typer.echo(f"forebay: starting {what} for {model}; this can take minutes")
    say_ready = once(lambda: _say_ready(url, model, settings, shown_key))
    try:
        uvloop.run(serve_engines(settings, specs, writer, sock, say_ready))
    finally:
        writer.stop()


def once(action: Callable[[], None]) -> Callable[[], None]:
    """The action for its first call, nothing after that."""
    actions = [action]
    return lambda: actions.pop()() if actions else None


def _say_ready(url: str, model: str, settings: Settings, shown_key: str | None) -> None:
    """Tell a newcomer what to do next; a key is shown only where it was made for this run."""
    key = shown_key or "YOUR_KEY"
    header = f" -H 'Authorization: Bearer {key}'" if settings.api_keys else ""
    question = '"messages": [{"role": "user", "content": "What is the capital of France?"}]'
    lines = [
        "",
        f"  Ready: {url}/v1 serves {model}",
        *([f"  API key for this run: {shown_key}"] if shown_key else []),
        "",
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} \\",
        f'    -d \'{{"model": "{model}", "temperature": 0, {question}}}\'',
        "",
    ]
    typer.echo("\n".join(lines))
