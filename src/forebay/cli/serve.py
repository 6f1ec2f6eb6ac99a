"""`forebay serve MODEL`: a gateway and the engine it supervises, as separate processes over a Unix socket."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from pydantic import SecretStr

from forebay.cli.options import EXIT_USAGE, fail, with_settings_options
from forebay.cli.run import announce_address, base_url, prepare
from forebay.config.settings import Settings
from forebay.engines.lifecycle import Announce, State
from forebay.engines.spec import EngineSpec, engine_spec
from forebay.engines.supervisor import Supervisor
from forebay.failures import Failure
from forebay.gateway.build import Gateway, GatewayServer, make_replica
from forebay.models.default import ENGINE_ARGS, ModelUnavailable, default_model, model_cache
from forebay.replicas.monitor import learn_models
from forebay.replicas.replica import Replica
from forebay.telemetry.logging import LogWriter
from forebay.upstream.pool import Address

DEFAULT_MODEL = "default"
LEARN_EVERY_S = 0.25
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
            spec = _spec(settings, model, python, settings.runtime_dir or Path(private))
        except (ModelUnavailable, OSError) as wrong:
            fail(f"model: {wrong}")
        _run(settings, spec, shown_key)


def engine_python(settings: Settings) -> Path:
    """The Python that has vLLM."""
    if settings.engine_python is not None:
        return settings.engine_python
    beside = Path(sys.prefix) / "engine" / "bin" / "python"
    return beside if beside.exists() else Path(sys.executable)


def _spec(settings: Settings, model: str, python: Path, directory: Path) -> EngineSpec:
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
    return engine_spec(
        settings,
        model=model,
        served_model=name or model,
        python=str(python),
        uds=str(directory / "engine-0.sock"),
        has_gpu=shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists(),
        env=os.environ,
        model_args=model_args,
    )


def _run(settings: Settings, spec: EngineSpec, shown_key: str | None) -> None:
    sock, writer = prepare(settings)
    announce_address(settings, sock)
    url = base_url(settings, sock)
    typer.echo(f"forebay: starting the engine for {spec.served_model}; this can take minutes")
    try:
        uvloop.run(
            _serve(settings, spec, writer, sock, lambda: _say_ready(url, spec.served_model, settings, shown_key))
        )
    finally:
        writer.stop()


async def _serve(settings: Settings, spec: EngineSpec, writer: LogWriter, sock: Any, on_ready: Any) -> None:
    replica = make_replica(settings, spec.name, Address("localhost", uds=spec.uds))
    gateway = Gateway(settings, writer, [replica])
    supervisor = Supervisor(spec, settings, replica.upstream, _Follow(gateway, replica, settings, on_ready))
    gateway.engines.append(supervisor)
    supervising = asyncio.create_task(supervisor.run())
    server = GatewayServer(gateway)
    supervising.add_done_callback(lambda _: server.stop())  # it ends by itself only by a bug, which is raised below
    await server.serve([sock])
    supervisor.stop()
    await supervising


class _Follow:
    """Keeps the replica in step with its engine's state."""

    def __init__(self, gateway: Gateway, replica: Replica, settings: Settings, on_ready: Any) -> None:
        self._gateway = gateway
        self._replica = replica
        self._settings = settings
        self._on_ready = on_ready
        self._learning: asyncio.Task[None] | None = None

    def __call__(self, change: Announce) -> None:
        if self._learning is not None:
            self._learning.cancel()
            self._learning = None
        self._replica.ready = False
        self._replica.why = f"{change.new.value}: {change.why}"
        if change.new is State.READY:
            self._learning = asyncio.get_running_loop().create_task(self._join())

    async def _join(self) -> None:
        while True:
            try:
                await learn_models(self._replica, self._settings.health_timeout_s)
                break
            except Failure as failure:
                self._replica.why = f"its models are not known yet: {failure}"
                await asyncio.sleep(LEARN_EVERY_S)
        self._gateway.replicas.refresh()
        self._replica.ready, self._replica.why = True, "generates"
        on_ready, self._on_ready = self._on_ready, lambda: None
        on_ready()


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
