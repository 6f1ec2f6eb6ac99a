"""Samples of a running gateway, one after the other, and the view between each two."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from forebay.asking import Caller, NoAnswer
from forebay.top.figures import View, view
from forebay.top.sample import Sample
from forebay.top.screen import draw

Pause = Callable[[float], None]


@dataclass(frozen=True)
class Frame:
    """What there is to show at one moment."""

    view: View
    health: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps({**asdict(self.view), "health": self.health})


class Watch:
    """Asks a gateway for its figures, and tells what changed since it was asked before."""

    def __init__(self, asking: Caller) -> None:
        self.asking = asking
        self._last: Sample | None = None

    def look(self) -> Frame | None:
        """What happened since the look before; None the first time. Raises `NoAnswer`."""
        text = self.asking.get("/metrics").decode("utf-8", "replace")
        try:
            sample = Sample.of(text, monotonic())
        except ValueError as wrong:
            raise NoAnswer(f"{self.asking.url}/metrics is not Prometheus's format: {wrong}") from None
        last, self._last = self._last, sample
        if last is None:
            return None
        return Frame(view(last.values, sample.values, sample.at - last.at), self.asking.get_json("/health"))


def next_frame(watch: Watch, interval_s: float, pause: Pause) -> Frame:
    """The frame of the next interval. Raises `NoAnswer`."""
    while True:
        if (frame := watch.look()) is not None:
            return frame
        pause(interval_s)


def watch_live(watch: Watch, interval_s: float, pause: Pause, console: Console) -> None:
    """Draw frame after frame on a terminal until Ctrl-C; while the gateway is away, the last one and why.

    Raises `NoAnswer` where it does not answer at the beginning.
    """
    shown = watch.look()
    with Live(Text("asking …"), console=console, screen=True, auto_refresh=False) as live:
        while True:
            pause(interval_s)
            problem = ""
            try:
                shown = watch.look() or shown
            except NoAnswer as failure:
                problem = str(failure)
            live.update(_drawn(watch, shown, problem), refresh=True)


def _drawn(watch: Watch, frame: Frame | None, problem: str) -> RenderableType:
    if frame is None:
        return Text(problem or "asking …")
    return draw(watch.asking.url, frame.view, frame.health, problem)
