"""`forebay top`: what a running gateway does now, live."""

import time
from typing import Annotated

import typer

from forebay.cli.calling import DEFAULT_URL, KeyFile, Url, caller
from forebay.cli.options import fail

TIMEOUT_S = 10.0
WIDE = 200  # columns of a frame that goes to no terminal


def top(
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    interval: Annotated[float, typer.Option(help="Time between two looks, seconds.", min=0.1, max=3600)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, after one interval.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each frame, on a line.")] = False,
) -> None:
    """Watch a running gateway: requests, tokens and failures a second, time to first token, queue, replicas, cache:

    forebay top --url http://127.0.0.1:8000

    forebay top --once --json --interval 10

    The key is taken from FOREBAY_API_KEY; it needs the scope metrics, unless the gateway has metrics_public. Ctrl-C
    ends it. Without a terminal each frame is printed below the one before.
    """
    from rich.console import Console

    from forebay.asking import NoAnswer
    from forebay.top.screen import draw
    from forebay.top.watching import Watch, next_frame, watch_live

    watch, console = Watch(caller(url, key_file, TIMEOUT_S)), Console()
    try:
        if console.is_terminal and not once and not as_json:
            watch_live(watch, interval, time.sleep, console)
        while True:
            frame = next_frame(watch, interval, time.sleep)
            if as_json:
                typer.echo(frame.to_json())
            else:
                plain = console if console.is_terminal else Console(width=WIDE)
                plain.print(draw(watch.asking.url, frame.view, frame.health))
            if once:
                return
            time.sleep(interval)
    except NoAnswer as failure:
        fail(str(failure))
    except KeyboardInterrupt:
        raise typer.Exit from None
