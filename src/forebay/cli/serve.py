"""`forebay serve MODEL`: a gateway and the engine it supervises, as separate processes over a Unix socket."""

import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from forebay.cli.choose import (
    Choice,
    EngineArguments,
    ModelArgument,
    choose,
    gpu_devices,
    named_model,
    with_engine_args,
)
from forebay.cli.options import fail
from forebay.cli.prepare import keys_database, metrics_socket, prepare
from forebay.cli.run import announce_address, base_url, until_ended
from forebay.cli.settings_options import with_settings_options
from forebay.config.settings import Settings
from forebay.config.sources import Loader, SettingsError
from forebay.engines.spec import EngineSpec, NotEnoughDevices, share_devices
from forebay.fleet import Slot
from forebay.models.default import ModelUnavailable
from forebay.rollout import CannotPlan
from forebay.serving import serve_engines
from forebay.systemd import passed_socket

MADE_KEY_PREFIX = "sk-run-"
_CANNOT_START = (ModelUnavailable, NotEnoughDevices, OSError)


def _key_for_this_run(own: dict[str, Any]) -> dict[str, Any]:
    return {"api_keys": (SecretStr(MADE_KEY_PREFIX + secrets.token_urlsafe(24)),)} if own["new_key"] else {}


@with_settings_options("serve", _key_for_this_run)
def serve(
    settings: Settings,
    loader: Loader,
    model: ModelArgument = None,
    engine_args: EngineArguments = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Where no key is set, make one for this run and show it.")
    ] = False,
) -> None:
    """Start vLLM on a model and serve it:

    forebay serve default

    forebay serve Qwen/Qwen2.5-0.5B-Instruct --port 8000 -- --max-model-len 4096

    SIGHUP, or `forebay rollout`, replaces the engines by ones with changed options while requests go on; the
    gateway's own settings are followed as their file changes.
    """
    settings = _of_this_command(settings, model, engine_args)
    made = [key.get_secret_value() for key in settings.api_keys if new_key]
    shown_key = next((key for key in made if key.startswith(MADE_KEY_PREFIX)), None)
    try:
        slots = _slots(settings)
    except _CANNOT_START as wrong:
        fail(f"model: {wrong}")

    def change(again: Settings) -> Settings:
        if model is None and again.model is None and not again.models:
            raise SettingsError("model: name the model to serve")
        return _of_this_command(again, model, engine_args)

    loader = loader.then(change)

    def read_slots() -> list[Slot]:
        try:
            return _slots(loader.load())
        except (SettingsError, *_CANNOT_START) as wrong:
            raise CannotPlan(str(wrong)) from None

    with tempfile.TemporaryDirectory(prefix="forebay-") as private:
        _run(settings, loader, slots, read_slots, settings.runtime_dir or Path(private), shown_key)


def _of_this_command(settings: Settings, model: str | None, engine_args: list[str] | None) -> Settings:
    """The settings with what the command line names; a model named there is the only one."""
    settings = with_engine_args(settings, engine_args)
    if model is not None or not settings.models:
        settings = settings.model_copy(update={"model": named_model(settings, model, "serve"), "models": ()})
    return settings


def _slots(settings: Settings) -> list[Slot]:
    """A place for each engine. Raises what `_CANNOT_START` lists."""
    wanted = [(one, choose(one, str(one.model))) for one in settings.each_model() for _ in range(one.replicas)]
    shares = share_devices(gpu_devices(os.environ), [one.tensor_parallel_size or 1 for one, _ in wanted])
    return [
        Slot(one, partial(_spec, choice, tuple(share))) for (one, choice), share in zip(wanted, shares, strict=True)
    ]


def _spec(choice: Choice, devices: Sequence[str], name: str, uds: str) -> EngineSpec:
    return choice.spec(name, uds, devices)


def _run(
    settings: Settings,
    loader: Loader,
    slots: list[Slot],
    read_slots: Callable[[], list[Slot]],
    directory: Path,
    shown_key: str | None,
) -> None:
    database = keys_database(settings)
    directory.mkdir(parents=True, exist_ok=True)
    passed = passed_socket(os.environ)
    sock, writer = prepare(settings, settings.host, settings.port, passed=passed)
    announce_address(settings, sock)
    metrics_at = metrics_socket(settings)
    names = list(dict.fromkeys(slot.make_spec("", "").served_model for slot in slots))
    what = "the engine" if len(slots) == 1 else f"{len(slots)} engines"
    typer.echo(f"forebay: starting {what} for {', '.join(names)}; this can take minutes")
    say_ready = once(lambda: _say_ready(base_url(settings, sock), names, settings, shown_key))
    until_ended(
        serve_engines(
            settings,
            slots,
            read_slots,
            directory,
            writer,
            sock,
            say_ready,
            loader,
            database,
            metrics_at,
            shared=passed is not None,
        ),
        writer,
    )


def once(action: Callable[[], None]) -> Callable[[], None]:
    """The action for its first call, nothing after that."""
    actions = [action]
    return lambda: actions.pop()() if actions else None


def _say_ready(url: str, models: list[str], settings: Settings, shown_key: str | None) -> None:
    """Tell a newcomer what to do next; a key is shown only where it was made for this run."""
    model = models[0]
    key = shown_key or "YOUR_KEY"
    header = f" -H 'Authorization: Bearer {key}'" if settings.asks_for_keys else ""
    question = '"messages": [{"role": "user", "content": "What is the capital of France?"}]'
    lines = [
        "",
        f"  Ready: {url}/v1 serves {', '.join(models)}",
        *([f"  API key for this run: {shown_key}"] if shown_key else []),
        *([f"  To try it in a browser: {url}/ui#playground"] if settings.page else []),
        "",
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} \\",
        f'    -d \'{{"model": "{model}", "temperature": 0, {question}}}\'',
        "",
    ]
    typer.echo("\n".join(lines))
