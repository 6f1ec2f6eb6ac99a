"""`forebay why ID`: where a request's time went, or what ended it."""

import json
from typing import Annotated
from urllib.parse import quote

import typer

from forebay.cli.calling import ADMIN_KEYS, DEFAULT_URL, KeyFile, Url, caller
from forebay.cli.options import EXIT_USAGE, AsJson, fail

TIMEOUT_S = 10.0


def why(
    request_id: Annotated[
        str, typer.Argument(help="As an answer's header x-request-id has it; its answer's id, or trace's.")
    ],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Say why a request was slow, was refused, failed, or was cut: the verdict, and what was decided when.

    forebay why 4f0c1d2e3b4a59687786a5b4c3d2e1f0

    The key is taken from FOREBAY_API_KEY; it needs the scope admin. Ends with status 1 where the request is not known,
    and says how far the gateway's memory goes back.
    """
    from forebay.asking import NoAnswer
    from forebay.cli.why_print import print_story

    if not request_id or not request_id.isascii() or not request_id.isprintable() or "/" in request_id:
        fail("request-id: no id of a request", EXIT_USAGE)
    asking = caller(url, key_file, TIMEOUT_S, own_keys=ADMIN_KEYS)
    try:
        story = asking.get_json(f"/admin/v1/requests/{quote(request_id, safe='')}")
    except NoAnswer as failure:
        fail(str(failure))
    if as_json:
        typer.echo(json.dumps(story))
    else:
        print_story(story)
