"""What operators see."""

from functools import partial
from pathlib import Path
from typing import Literal

from forebay.config.groups.group import ALL, Group, declare

setting = partial(declare, group="telemetry")


class TelemetrySettings(Group):
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
