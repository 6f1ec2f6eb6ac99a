"""Where spans go, and of which requests."""

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from forebay.config.groups.group import ALL, Group, declare, without_password

setting = partial(declare, group="telemetry")


def _web(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("say it as http://host:port or https://host:port")
    return without_password(url)


Web = Annotated[str, AfterValidator(_web)]


class TracingSettings(Group):
    otlp_traces_endpoint: Web | None = setting(
        None,
        "URL that spans are sent to (OTLP), as it is; for http/protobuf mostly with /v1/traces at its end. Nothing is "
        "traced where neither this nor otlp_endpoint is set. The engines started here send theirs there too.",
        aliases=("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",),
        roles=ALL,
    )
    otlp_endpoint: Web | None = setting(
        None,
        "Base URL of an OTLP receiver; for http/protobuf, spans go to /v1/traces below it.",
        aliases=("OTEL_EXPORTER_OTLP_ENDPOINT",),
        roles=ALL,
    )
    otlp_protocol: Literal["grpc", "http/protobuf"] = setting(
        "grpc",
        "How spans are sent. Headers, certificates and the service's name are read from OpenTelemetry's own variables.",
        aliases=("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
        roles=ALL,
    )
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = setting(
        1.0,
        "Share of the requests traced, of those whose caller does not say by traceparent whether its trace is sampled.",
        hot=True,
    )

    @property
    def traces_url(self) -> str | None:
        """Where spans go; None where nothing is traced."""
        if self.otlp_traces_endpoint is not None or self.otlp_endpoint is None:
            return self.otlp_traces_endpoint
        return self.otlp_endpoint if self.otlp_protocol == "grpc" else self.otlp_endpoint.rstrip("/") + "/v1/traces"
