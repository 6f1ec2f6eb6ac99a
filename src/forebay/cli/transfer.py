"""How far a long transfer is: a bar on a terminal, else a line now and then; both on standard error."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from forebay.models.sizes import readable

LINE_EVERY_S = 10.0


@contextmanager
def transfer(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` bytes is done; what comes back takes the bytes that were done since, from any thread."""
    if not sys.stderr.isatty():
        yield Lines(what, total).add
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.advance(task, size)


class Lines:
    """A line when it begins to take long, and then every ten seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._next = time.monotonic() + LINE_EVERY_S

    def add(self, size: int) -> None:
        """So many bytes more are done."""
        with self._lock:
            self._done += size
            if (now := time.monotonic()) < self._next:
                return
            self._next = now + LINE_EVERY_S
        typer.echo(f"forebay: {self._what}: {readable(self._done)} of {readable(self._total)}", err=True)
