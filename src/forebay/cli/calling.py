"""Whom the commands call that talk with a running gateway, and with which key. A key is no option: `ps` shows those."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from forebay.cli.options import EXIT_USAGE, fail

if TYPE_CHECKING:
    from forebay.asking import Caller

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0
GATEWAY_KEYS = ("FOREBAY_API_KEYS", "API_KEYS")  # those of a gateway that is started from the same environment
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

Url = Annotated[str, typer.Option(help="Where the gateway listens.", envvar="FOREBAY_URL")]
KeyFile = Annotated[
    Path | None, typer.Option(help="File that holds the key; FOREBAY_API_KEY otherwise.", show_default=False)
]
Timeout = Annotated[float, typer.Option("--timeout", help="Longest pause in an answer, seconds.", min=0.1)]
Model = Annotated[str | None, typer.Option(help="Model to ask; the first that the gateway lists by default.")]


def caller(url: str, key_file: Path | None, timeout_s: float = TIMEOUT_S) -> "Caller":
    """Who asks the gateway at `url`; ends the process where the URL or the key is none."""
    from forebay.asking import Caller, NotAsked

    try:
        return Caller.of(url, _key(url, key_file), timeout_s)
    except NotAsked as wrong:
        fail(str(wrong), EXIT_USAGE)
    except (OSError, UnicodeDecodeError) as failure:
        fail(f"key-file: {key_file} cannot be read: {getattr(failure, 'strerror', None) or 'no text'}", EXIT_USAGE)


def first_model(asking: "Caller", model: str | None) -> str:
    """The model to ask. Raises `NoAnswer`."""
    from forebay.asking import NoAnswer

    if model is not None:
        return model
    if not (models := asking.models()):
        raise NoAnswer("the gateway lists no model yet; `forebay doctor` and /health tell more")
    return models[0]


def _key(url: str, key_file: Path | None) -> str | None:
    """The key that was named; a gateway's own list of keys serves for a gateway on this machine, and for no other."""
    if key_file is not None:
        return key_file.read_text().strip() or None
    if named := os.environ.get("FOREBAY_API_KEY"):
        return named.strip()
    if urlsplit(url if "://" in url else f"http://{url}").hostname in _LOOPBACK:
        return next((os.environ[name].split(",")[0].strip() for name in GATEWAY_KEYS if os.environ.get(name)), None)
    return None
