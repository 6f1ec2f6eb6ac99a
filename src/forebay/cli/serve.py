"""`forebay serve MODEL`: a gateway and the engine it supervises, as separate processes over a Unix socket."""

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from pydantic import SecretStr

from forebay.cli.choose import choose, gpu_devices, named_model, with_engine_args
from forebay.cli.options import fail, with_settings_options
from forebay.cli.prepare import prepare
from forebay.cli.run import announce_address, base_url
from forebay.config.settings import Settings
from forebay.engines.spec import EngineSpec, NotEnoughDevices, share_devices
from forebay.models.default import ModelUnavailable
from forebay.serving import serve_engines

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
    settings = with_engine_args(settings, engine_args)
    model = named_model(settings, model, "serve")
    made = [key.get_secret_value() for key in settings.api_keys if new_key]
    shown_key = next((key for key in made if key.startswith(MADE_KEY_PREFIX)), None)
    with tempfile.TemporaryDirectory(prefix="forebay-") as private:
        try:
            specs = _specs(settings, model, settings.runtime_dir or Path(private))
        except (ModelUnavailable, NotEnoughDevices, OSError) as wrong:
            fail(f"model: {wrong}")
        _run(settings, specs, shown_key)


def _specs(settings: Settings, model: str, directory: Path) -> list[EngineSpec]:
    """How to start each replica. Raises `ModelUnavailable`, `NotEnoughDevices` or OSError."""
    choice = choose(settings, model)
    directory.mkdir(parents=True, exist_ok=True)
    shares = share_devices(gpu_devices(os.environ), settings.replicas, settings.tensor_parallel_size or 1)
    return [
        choice.spec(f"engine-{number}", str(directory / f"engine-{number}.sock"), share)
        for number, share in enumerate(shares)
    ]


def _run(settings: Settings, specs: list[EngineSpec], shown_key: str | None) -> None:
    sock, writer = prepare(settings, settings.host, settings.port)
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
