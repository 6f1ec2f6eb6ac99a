"""What a running process may take over from changed settings. Pure.

What is hot is followed at once and as a whole; what is not stays as it was until the process starts again. What a model
may have of its own is none of this: its engines are replaced by a rollout. Whatever comes of mixing old and new is
validated like any settings are.
"""

from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from forebay.config.settings import Settings


class CannotFollow(Exception):
    """The changed settings are valid, but this process cannot follow them; the message says why."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of the settings that have changed: those followed at once, and those that wait for a restart."""

    hot: tuple[str, ...]
    restart: tuple[str, ...]


def is_hot(name: str) -> bool:
    """Whether a running process follows a change of the setting."""
    return bool(_extra(name)["hot"])


def _extra(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], Settings.model_fields[name].json_schema_extra)


def _is_of_engines(name: str, running: Settings) -> bool:
    """Whether a rollout replaces what the setting is about; a gateway over engines elsewhere has none."""
    extra = _extra(name)
    return extra["per_model"] and not (running.upstream and "gateway" in extra["roles"])


def diff(old: Settings, new: Settings) -> Changes:
    """What has changed."""
    names = [name for name in Settings.model_fields if name != "models" and not _is_of_engines(name, old)]
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    hot = tuple(name for name in changed if is_hot(name))
    return Changes(hot, tuple(name for name in changed if name not in hot))


def follow(running: Settings, wanted: Settings) -> tuple[Settings, Changes]:
    """The settings to run by from now on, and what changes. Raises `CannotFollow`.

    Taking the last key away would let everybody in. That may be meant, or a file may be half gone: it takes a restart.
    """
    if running.api_keys and not wanted.api_keys:
        raise CannotFollow("api_keys: there is no key any more; to let everybody in, restart")
    if running.upstream and not wanted.upstream:
        raise CannotFollow("upstream: there is no engine any more; to end, send SIGTERM")
    changes = diff(running, wanted)
    values = {name: getattr(running, name) for name in running.model_fields_set}
    values |= {name: getattr(wanted, name) for name in changes.hot}
    try:
        return Settings(**values), changes
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
        told = first["msg"].removeprefix("Value error, ")
        raise CannotFollow(f"{told} (some of what has changed takes a restart: {', '.join(changes.restart)})") from None
