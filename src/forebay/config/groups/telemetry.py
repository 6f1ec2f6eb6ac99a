"""What operators see."""

from functools import partial
from pathlib import Path
from typing import Literal

from forebay.config.groups.group import ALL, MIB, Group, Seconds, SecondsOrZero, declare

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
    log_file_max_bytes: int = setting(
        100 * MIB,
        "Size at which log_file is put aside and begun anew; 0 lets it grow, for rotation by others.",
        roles=ALL,
        ge=0,
    )
    log_file_backups: int = setting(
        5, "Log files put aside that are kept, as log_file.1, .2 and so on.", roles=ALL, ge=0, le=1000
    )
    page: bool = setting(True, "Serve the page for people at /ui; what it shows takes a key.")
    access_log: bool = setting(True, "One log line a request.", hot=True)
    access_log_sample_ratio: float = setting(
        1.0,
        "Share of requests that have their line, 0 to 1; errors and slow ones always have it.",
        hot=True,
        ge=0,
        le=1,
    )
    slow_request_s: Seconds = setting(
        10.0,
        "Time to the first token, to the whole answer where it is no stream, from which a request counts as slow for "
        "`forebay why ID`; of the whole answer, for the access log. Seconds.",
        hot=True,
    )
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
    gpu_interval_s: SecondsOrZero = setting(
        5.0, "Seconds between two looks at the GPUs' figures; 0 does not look.", roles=ALL
    )
