"""`forebay gateway`: the data plane alone, over engines that run elsewhere."""

from forebay.cli.options import EXIT_USAGE, fail
from forebay.cli.run import run_gateway
from forebay.cli.settings_options import with_settings_options
from forebay.config.settings import Settings
from forebay.config.sources import Loader
from forebay.replicas.discovery.named import discovery_sources


@with_settings_options("gateway")
def gateway(settings: Settings, loader: Loader) -> None:
    """Serve the models of running vLLM engines:

    forebay gateway --upstream http://127.0.0.1:8001 --upstream http://127.0.0.1:8002 --port 8000

    forebay gateway --upstream kubernetes://default/vllm:8000

    A changed file of settings is followed by itself; SIGHUP has it read at once.
    """
    if not settings.upstream:
        fail("upstream: name at least one engine, as --upstream http://host:port", EXIT_USAGE)
    try:
        sources = discovery_sources(settings)
    except (ValueError, OSError) as wrong:
        fail(f"upstream: {wrong}", EXIT_USAGE)
    run_gateway(settings, loader, sources)
