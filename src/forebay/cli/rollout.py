"""`forebay rollout`: have a running `forebay serve` replace its engines, and tell how it goes."""

import json
import os
import time
import urllib.error
import urllib.request
from typing import Annotated, Any

import typer

from forebay.cli.options import EXIT_USAGE, fail

ASK_EVERY_S = 0.5
TIMEOUT_S = 30.0
KEY_VARIABLES = ("FOREBAY_ADMIN_KEYS", "ADMIN_KEYS")


def rollout(
    url: Annotated[
        str, typer.Option(help="Where `forebay serve` listens.", envvar="FOREBAY_URL")
    ] = "http://127.0.0.1:8000",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the engines whose options are the same, too.")
    ] = False,
) -> None:
    """Replace the engines of a running `forebay serve` by ones with its settings as they are now, while it serves:

    forebay rollout --url http://127.0.0.1:8000

    The key is taken from FOREBAY_ADMIN_KEYS (the first one). Ends with status 1 where the rollout failed.
    """
    key = next((os.environ[name].split(",")[0].strip() for name in KEY_VARIABLES if os.environ.get(name)), None)
    if key is None:
        fail("admin_keys: set FOREBAY_ADMIN_KEYS to the key that `forebay serve` was started with", EXIT_USAGE)
    report = _ask(url, key, json.dumps({"force": force}).encode())
    said = 0
    while True:
        for step in report["steps"][said:]:
            typer.echo(f"forebay: {step}")
        said = len(report["steps"])
        if report["state"] != "running":
            break
        time.sleep(ASK_EVERY_S)
        report = _ask(url, key)
    if report["state"] != "done":
        raise typer.Exit(1)


def _ask(url: str, key: str, body: bytes | None = None) -> dict[str, Any]:
    """One call of the admin API; ends the process with what is wrong."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/admin/v1/rollout", body, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            told: dict[str, Any] = json.load(answer)
            return told
    except urllib.error.HTTPError as refused:
        with refused:
            fail(_words(refused))
    except (OSError, ValueError) as failure:
        fail(f"no answer from {url}: {failure}; is `forebay serve` running there?")


def _words(refused: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(refused)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"answered with status {refused.code}"
