"""`forebay engine MODEL`: the agent of one engine, in its pod or on its host."""

import os

import typer
import uvloop

from forebay.agent import run_agent
from forebay.cli.choose import EngineArguments, ModelArgument, choose, gpu_devices, named_model, with_engine_args
from forebay.cli.options import EXIT_USAGE, fail
from forebay.cli.prepare import bind, prepare
from forebay.cli.settings_options import with_settings_options
from forebay.config.settings import Settings
from forebay.engines.spec import misplaced
from forebay.listening import url_of
from forebay.models.default import ModelUnavailable

NAME = "engine-0"


@with_settings_options("engine")
def engine(
    settings: Settings,
    model: ModelArgument = None,
    engine_args: EngineArguments = None,
) -> None:
    """Start vLLM on a model, on a port of its own, and keep it running; for a gateway elsewhere:

    forebay engine Qwen/Qwen2.5-0.5B-Instruct --engine-host 0.0.0.0 --agent-host 0.0.0.0
    """
    settings = with_engine_args(settings, engine_args)
    model = named_model(settings, model, "engine")
    if wrong := misplaced(settings.engine_args):
        fail(f"engine_args: {wrong}", EXIT_USAGE)
    try:
        spec = choose(settings, model).spec(NAME, None, gpu_devices(os.environ))
    except (ModelUnavailable, OSError) as failure:
        fail(f"model: {failure}")
    bind(settings.engine_host, settings.engine_port, "--engine-port").close()  # said now, not after minutes by vLLM
    sock, writer = prepare(settings, settings.agent_host, settings.agent_port, "--agent-port")
    url = url_of(settings.engine_host, settings.engine_port)
    typer.echo(f"forebay: the agent's pages are at {url_of(settings.agent_host, sock.getsockname()[1])}")
    typer.echo(f"forebay: starting {spec.served_model}, to listen on {url}; this can take minutes")
    if spec.api_key is None:
        reach = "callers on this machine" if not settings.allow_anonymous else "anybody who reaches its port"
        typer.secho(f"forebay: it asks for no key, so {reach} can use it; set FOREBAY_UPSTREAM_API_KEY", fg="yellow")
    try:
        uvloop.run(run_agent(settings, spec, writer, sock, lambda: typer.echo(f"forebay: ready: {url}/v1")))
    finally:
        writer.stop()
