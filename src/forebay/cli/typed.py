"""What is typed where a number, a duration or a moment is meant."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def number(text: str | None) -> Any:
    """A number as typed; what is none is left for the field's own check to refuse, by its name."""
    try:
        return json.loads(text) if text is not None else None
    except ValueError:
        return text


def duration(text: str) -> int | None:
    """`15m`, `12h`, `30d` in seconds; None for anything else."""
    count, unit = text[:-1], text[-1:]
    return int(count) * _UNITS[unit] if unit in _UNITS and count.isascii() and count.isdigit() else None


def moment(text: str | None) -> Any:
    """`30d` from now; anything else is left for the field's own check."""
    seconds = duration(text) if text is not None and len(text) < 10 else None
    return datetime.now(UTC) + timedelta(seconds=seconds) if seconds is not None else text
