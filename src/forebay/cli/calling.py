"""Whom the commands call that talk with a running gateway, and with which key. A key is no option: `ps` shows those."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from forebay.cli.options import EXIT_USAGE, fail

if TYPE_CHECKING:
    from forebay.asking import Caller

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0
KEY_NAME = "FOREBAY_API_KEY"
GATEWAY_KEYS = ("FOREBAY_API_KEYS", "API_KEYS")  # those of a gateway that is started from the same environment
ADMIN_KEYS = ("FOREBAY_ADMIN_KEYS", "ADMIN_KEYS")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

Url = Annotated[str, typer.Option(help="Where the gateway listens.", envvar="FOREBAY_URL")]
KeyFile = Annotated[
    Path | None, typer.Option(help="File that holds the key; FOREBAY_API_KEY otherwise.", show_default=False)
]
Timeout = Annotated[float, typer.Option("--timeout", help="Longest pause in an answer, seconds.", min=0.1)]
Model = Annotated[str | None, typer.Option(help="Model to ask; the first that the gateway lists by default.")]


def caller(
    url: str,
    key_file: Path | None,
    timeout_s: float = TIMEOUT_S,
    key_name: str = KEY_NAME,
    *,
    own_keys: Sequence[str] = GATEWAY_KEYS,
) -> "Caller":
    """Who asks the gateway at `url`; ends the process where the URL or the key is none."""
    from forebay.asking import Caller, NotAsked

    try:
        return Caller.of(url, key_for(url, key_file, key_name, own_keys), timeout_s)
    except NotAsked as wrong:
        fail(str(wrong), EXIT_USAGE)


def key_for(
    url: str, key_file: Path | None, name: str = KEY_NAME, own_keys: Sequence[str] = GATEWAY_KEYS
) -> str | None:
    """The key in a file, else in the variable `name`; ends the process where it is none.

    Where neither is there, a gateway's own list of keys, in one of the variables `own_keys`, serves for a gateway on
    this machine, and for no other.
    """
    from forebay.asking import is_key

    try:
        key = os.environ.get(name, "") if key_file is None else key_file.read_text()
    except (OSError, UnicodeDecodeError) as failure:
        fail(f"key-file: {key_file} cannot be read: {getattr(failure, 'strerror', None) or 'no text'}", EXIT_USAGE)
    if key_file is None and not key and _is_on_this_machine(url):
        key = next((os.environ[one].split(",")[0] for one in own_keys if os.environ.get(one)), "")
    key = key.strip()
    if not is_key(key):
        fail("key: has characters that no key has", EXIT_USAGE)
    return key or None


def first_model(asking: "Caller", model: str | None) -> str:
    """The model to ask. Raises `NoAnswer`."""
    from forebay.asking import NoAnswer

    if model is not None:
        return model
    if not (models := asking.models()):
        raise NoAnswer("the gateway lists no model yet; `forebay doctor` and /health tell more")
    return models[0]


def _is_on_this_machine(url: str) -> bool:
    try:
        return urlsplit(url if "://" in url else f"http://{url}").hostname in _LOOPBACK
    except ValueError:
        return False  # who parses it says so
