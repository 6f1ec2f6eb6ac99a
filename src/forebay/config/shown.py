"""What of the settings, and of command lines, may be shown to an administrator: everything but secrets. Pure.

A secret's field tells only whether it is set. Elsewhere a secret can only be what somebody wrote into a text: a
password in a URL, or what follows an option, or a name in JSON, that is called key, token, password or secret.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, SecretStr

from forebay.config.settings import Settings

HIDDEN = "***"
_NAMES = r"(?:key|token|passw(?:or)?d|passphrase|secret|credentials?)"
_OPTION = re.compile(rf"--?(?:[A-Za-z0-9-]*[-_.])?{_NAMES}", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
_MEMBER = re.compile(rf"(\"(?:[^\"]*[-_.])?{_NAMES}\"\s*:\s*)\"(?:[^\"\\]|\\.)*\"", re.IGNORECASE)


def shown_settings(settings: Settings) -> dict[str, Any]:
    """All settings, as JSON can hold them."""
    return {name: _shown(getattr(settings, name)) for name in type(settings).model_fields}


def shown_command(argv: Sequence[str]) -> list[str]:
    """A command line with what secret options say left out."""
    told: list[str] = []
    hiding = False
    for part in argv:
        option, equals, _ = part.partition("=")
        if part.startswith("-"):
            hiding = _OPTION.fullmatch(option) is not None
            told.append(f"{option}={HIDDEN}" if hiding and equals else _shown_text(part))
        else:
            told.append(HIDDEN if hiding else _shown_text(part))
    return told


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "set" if value.get_secret_value() else "not set"
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return {str(name): _shown(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return shown_command(value) if all(isinstance(one, str) for one in value) else [_shown(one) for one in value]
    if isinstance(value, str | PurePath):
        return _shown_text(str(value))
    return value


def _shown_text(text: str) -> str:
    return _MEMBER.sub(rf'\1"{HIDDEN}"', _USERINFO.sub(f"{HIDDEN}@", text))
