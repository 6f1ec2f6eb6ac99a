"""What operators see."""

from functools import partial
from pathlib import Path
from typing import Literal

from forebay.config.groups.group import ALL, Group, Seconds, declare

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
    access_log: bool = setting(True, "One log line a request.", hot=True)
    recent_requests: int = setting(
        2000,
        "Requests whose story is kept for `forebay why ID`, the latest; a tenth as many of each kind that went wrong "
        "are kept besides. 0 keeps none.",
        ge=0,
        le=20_000,
    )
    engine_timings: bool = setting(
        False,
        "Have engines tell how long each request waited and ran in them (vLLM's --enable-per-request-metrics), for "
        "`forebay why ID`; callers do not see it. Engines elsewhere are started with that option by who owns them.",
        roles=ALL,
    )
    slow_request_s: Seconds = setting(
        10.0,
        "Time to the first token, to the whole answer where it is no stream, from which a request counts as slow for "
        "`forebay why ID`, seconds.",
        hot=True,
    )
