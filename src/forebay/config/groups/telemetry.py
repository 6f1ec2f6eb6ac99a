"""What operators see."""

from functools import partial
from pathlib import Path
from typing import Literal

from forebay.config.groups.group import ALL, Group, declare

setting = partial(declare, group="telemetry")


class TelemetrySettings(Group):
    metrics_port: int | None = setting(
        None,
        "Port that serves /metrics, /metrics/engines and /health alone, besides the main one; 0 takes a free one.",
        aliases=("METRICS_PORT",),
        ge=0,
        le=65_535,
    )
    metrics_host: str | None = setting(None, "Address that metrics_port listens on; that of host where none is set.")
    metrics_port_public: bool = setting(
        False, "Ask for no key at metrics_port, as for scraping over a private network."
    )
    max_tenant_series: int = setting(
        100, "Tenants that metrics tell apart, the most active; 0 has none of tenants.", ge=0, le=10_000
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Least severe log line written.", aliases=("LOG_LEVEL",), roles=ALL, hot=True
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "auto", "Log lines as JSON or as text; auto is text on a terminal.", roles=ALL
    )
    log_file: Path | None = setting(
        None,
        "File that log lines go to instead of standard error.",
        aliases=("LOG_FILE",),
        roles=ALL,
    )
    page: bool = setting(True, "Serve the page for people at /ui; what it shows takes a key.")
    access_log: bool = setting(True, "One log line a request.", hot=True)
