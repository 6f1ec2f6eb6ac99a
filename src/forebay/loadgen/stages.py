"""A load that changes as it goes, and what it must keep within. Pure.

    30s:10   within 30 s to 10 requests/s, from where the stage before ended; the first begins at 0

Times of arrival: of a rate that changes linearly, the number of arrivals until a time is a parabola, which is solved
for each whole number (`fixed`), or for the sums of exponential gaps with mean 1 (`poisson`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import floor, sqrt
from typing import TYPE_CHECKING

from forebay.loadgen.arrivals import Open, Process
from forebay.loadgen.figures import Summary

if TYPE_CHECKING:
    from random import Random

_STAGE = re.compile(r"(\d+(?:\.\d+)?)(s|m)?:(\d+(?:\.\d+)?)")
_SECONDS = {"s": 1.0, "m": 60.0, None: 1.0}
FIGURES = ("ttft", "itl", "tpot", "e2e")
RANKS = ("mean", "median", "p90", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Stage:
    """Within so many seconds to a rate, requests/s."""

    seconds: float
    rate: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """What must not be passed: `failed` (a share), or a figure's rank (`ttft_p95`), seconds."""

    name: str
    limit: float

    def value(self, summary: Summary) -> float | None:
        """What it was; None where nothing was there to measure."""
        if self.name == "failed":
            ended = summary.completed + summary.failed
            return summary.failed / ended if ended else None
        figure, _, rank = self.name.partition("_")
        found = getattr(summary, f"{figure}_s")
        return None if found is None else float(getattr(found, rank))

    def met(self, summary: Summary) -> bool:
        """Nothing measured is nothing met."""
        value = self.value(summary)
        return value is not None and value <= self.limit

    def words(self, summary: Summary) -> str:
        value, in_share = self.value(summary), self.name == "failed"
        shown = [
            None if one is None else f"{one:.2%}" if in_share else f"{one * 1000:.0f} ms" for one in (value, self.limit)
        ]
        verdict = "met" if self.met(summary) else "not met"
        return f"{self.name}: {shown[0] or 'nothing was measured'}, at most {shown[1]}: {verdict}"


def stage(text: str) -> Stage:
    """Raises ValueError."""
    found = _STAGE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is not such as 30s:10 (within 30 s to 10 requests/s)")
    return Stage(float(found[1]) * _SECONDS[found[2]], float(found[3]))


def threshold(text: str) -> Threshold:
    """Raises ValueError."""
    name, _, value = text.strip().partition(":")
    figure, _, rank = name.partition("_")
    number = value.removesuffix("%").removesuffix("ms")
    known = name == "failed" or (figure in FIGURES and rank in RANKS)
    if not known or re.fullmatch(r"\d+(\.\d+)?", number) is None:
        raise ValueError(f"{text!r} is not such as failed:1% or ttft_p95:500 (milliseconds)")
    return Threshold(name, float(number) / (100 if name == "failed" else 1000))


def staged(stages: Sequence[Stage], process: Process, draw: "Random") -> Open:
    """When requests go out."""
    total = sum((before + one.rate) / 2 * one.seconds for before, one in _from(stages))
    count = floor(total + 1e-9)
    gaps = [draw.expovariate(1.0) for _ in range(count)] if process == "poisson" else [1.0] * count
    scale = total / sum(gaps) if process == "poisson" and gaps else 1.0  # so that each seed asks as much
    return Open(tuple(_times(stages, [due * scale for due in accumulate(gaps)])))


def _from(stages: Sequence[Stage]) -> Iterator[tuple[float, Stage]]:
    """Each stage with the rate that it begins at."""
    return zip((0.0, *(one.rate for one in stages)), stages, strict=False)


def _times(stages: Sequence[Stage], dues: Sequence[float]) -> Iterator[float]:
    """When the sum of what has arrived is each of these ascending numbers."""
    at, begun, done = 0, 0.0, 0.0
    for before, one in _from(stages):
        end = done + (before + one.rate) / 2 * one.seconds
        while at < len(dues) and dues[at] <= end + 1e-9:
            yield begun + _within(before, one, dues[at] - done)
            at += 1
        begun, done = begun + one.seconds, end


def _within(rate: float, one: Stage, arrived: float) -> float:
    """How far into a stage so many have arrived: rate x t + grows x t² / 2 = arrived."""
    grows = (one.rate - rate) / one.seconds
    if abs(grows) < 1e-12:
        return arrived / rate
    return min(2 * arrived / (rate + sqrt(max(rate * rate + 2 * grows * arrived, 0.0))), one.seconds)
