"""What finds the engines that the setting `upstream` names: a source for each kind of address."""

from forebay.config.settings import Settings
from forebay.replicas.discovery.dns import DnsSource
from forebay.replicas.discovery.kubernetes import KubernetesSource
from forebay.replicas.discovery.source import Source
from forebay.replicas.discovery.static import StaticSource


def discovery_sources(settings: Settings) -> list[Source]:
    """What finds the engines that `upstream` names. Raises ValueError or OSError."""
    static: list[str] = []
    sources: list[Source] = []
    for url in dict.fromkeys(settings.upstream):
        scheme = url.partition("://")[0]
        if scheme in ("dns", "dns+https"):
            sources.append(DnsSource(url, settings.upstream_ca_file, settings.discovery_interval_s))
        elif scheme in ("kubernetes", "kubernetes+https"):
            sources.append(KubernetesSource(url, settings.upstream_ca_file))
        else:
            static.append(url)
    return [*([StaticSource(static, settings.upstream_ca_file)] if static else []), *sources]
