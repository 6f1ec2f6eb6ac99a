"""Plots as inline SVG. Pure: points in, text out; colours come from the page's style sheet, so that it can be dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 30, 40
MOST_POINTS = 400

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """A line or, with `dots`, single points; `name` is what a legend says where there is more than one."""

    points: Points
    name: str = ""
    dots: bool = False


def plot(title: str, x_label: str, y_label: str, *series: Series, limit: float | None = None) -> str:
    """A plot whose axes begin at 0; `limit` is a dashed line across it."""
    shown = [Series(_thinned(one.points), one.name, one.dots) for one in series]
    xs = [x for one in shown for x, _ in one.points]
    ys = [y for one in shown for _, y in one.points] + ([limit] if limit is not None else [])
    if not xs:
        return ""
    x_ticks, y_ticks = ticks(max(xs)), ticks(max(ys))
    frame = _Frame(x_ticks[-1], y_ticks[-1])
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>')
    parts += [frame.x_tick(tick) for tick in x_ticks] + [frame.y_tick(tick) for tick in y_ticks]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="label" x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="rotate(-90 12 {middle})" text-anchor="middle"'
    parts.append(f'<text class="label" x="12" y="{middle}" {turned}>{escape(y_label)}</text>')
    parts += [frame.drawn(one, number) for number, one in enumerate(shown)]
    if limit is not None:
        y = frame.y(limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    if len(shown) > 1:
        parts += [_legend(one.name, number) for number, one in enumerate(shown)]
    return "".join([*parts, "</svg>"])


def ticks(highest: float, most: int = 6) -> list[float]:
    """Round numbers from 0 to at least `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / (most - 1)
    size = 10.0 ** floor(log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    count = 1
    while step * count < highest * 0.999:
        count += 1
    return [step * number for number in range(count + 1)]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values are on the page."""

    x_most: float
    y_most: float

    def x(self, value: float) -> float:
        return LEFT + value / self.x_most * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.y_most * (HEIGHT - TOP - BOTTOM)

    def x_tick(self, value: float) -> str:
        x, y = f"{self.x(value):.1f}", HEIGHT - BOTTOM
        return f'<text class="tick" x="{x}" y="{y + 15}" text-anchor="middle">{value:g}</text>'

    def y_tick(self, value: float) -> str:
        y = self.y(value)
        line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        return f'{line}<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'

    def drawn(self, series: Series, number: int) -> str:
        places = [(self.x(x), self.y(y)) for x, y in series.points]
        dots = "".join(f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in places)
        if series.dots:
            return dots
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        line = f'<polyline class="s{number}" points="{path}"/>'
        return line + (dots if len(places) < 30 else "")


def _legend(name: str, number: int) -> str:
    x, y = WIDTH - RIGHT - 130 + 75 * number, 16  # beside the title, where no line is
    dot = f'<circle class="s{number}" cx="{x}" cy="{y - 4}" r="4"/>'
    return f'{dot}<text class="label" x="{x + 9}" y="{y}">{escape(name)}</text>'


def _thinned(points: Points) -> Points:
    step = max(-(-len(points) // MOST_POINTS), 1)
    last = len(points) - 1
    return [point for number, point in enumerate(points) if number % step == 0 or number == last]
