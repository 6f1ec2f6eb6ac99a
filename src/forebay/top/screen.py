"""A view of a gateway on a terminal; a narrow one shows fewer columns, and never a row without a name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from forebay.talk.screen import visible
from forebay.top.figures import Figures, Gpu, View

NONE = "–"
GAP = 2  # between columns
WRAPPED_AT = 24  # what a name or a reason needs of a line, at most
_COLUMNS = ("model", "req/s", "failed/s", "in tok/s", "out tok/s", "TTFT p50", "TTFT p95", "running", "queued", "hits")
_SPARE = ("hits", "in tok/s", "TTFT p95", "failed/s", "queued", "running", "TTFT p50", "out tok/s")


@dataclass
class Rows:
    """A table with as many columns as fit; those in `spare` go first, in their order. Names and reasons wrap."""

    columns: tuple[str, ...]
    spare: tuple[str, ...]
    rows: list[tuple[list[str], str]] = field(default_factory=list)

    def add(self, cells: list[Any], style: str = "") -> None:
        self.rows.append(([visible(str(cell)) for cell in cells], style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = self._fitting(options.max_width)
        table = Table(box=None, pad_edge=False, show_edge=False)
        for index in kept:
            table.add_column(self.columns[index], no_wrap=not self._wraps(index), overflow="fold")
        for cells, style in self.rows:
            table.add_row(*(Text(cells[index]) for index in kept), style=style)
        yield table

    def _fitting(self, width: int) -> list[int]:
        kept = list(range(len(self.columns)))
        for name in self.spare:
            if sum(map(self._need, kept)) + GAP * (len(kept) - 1) <= width:
                break
            kept.remove(self.columns.index(name))
        return kept

    def _need(self, index: int) -> int:
        longest = max(cell_len(text) for text in (self.columns[index], *(cells[index] for cells, _ in self.rows)))
        return min(longest, WRAPPED_AT) if self._wraps(index) else longest

    def _wraps(self, index: int) -> bool:
        return index == 0 or self.columns[index] in ("model", "models", "why")


def draw(url: str, view: View, health: Mapping[str, Any], problem: str = "") -> RenderableType:
    """One frame; `problem` tells why it is not newer."""
    parts: list[RenderableType] = [_title(url, health), _models(view)]
    parts += [Text(f"errors/s  {_errors(view)}", style="red")] if view.errors_per_s else []
    parts += [_replicas(health)] if health.get("replicas") else []
    parts += [_engines(health)] if health.get("engines") else []
    parts += [_gpus(view)] if view.gpus else []
    parts += [Text(visible(problem), style="red")] if problem else []
    return Group(*parts)


def _title(url: str, health: Mapping[str, Any]) -> Text:
    status = str(health.get("status", "?"))
    cache = health.get("cache") or {}
    words = [
        f"forebay {health.get('version', '?')} at {url}",
        status,
        f"under way {health.get('active_requests', 0)}",
        f"connections {health.get('connections', 0)}",
        f"answered {health.get('total_requests', 0)}",
        f"cached {cache.get('entries', 0)}, {cache.get('bytes', 0) / 1024 / 1024:.1f} MiB",
    ]
    return Text(visible(" · ".join(words)) + "\n", style="bold" if status == "ok" else "bold yellow")


def _models(view: View) -> Rows:
    table = Rows(_COLUMNS, _SPARE)
    for name, figures in view.models.items():
        table.add(_row(name, figures))
    if len(view.models) != 1:
        table.add(_row("all", view.total), "bold")
    return table


def _row(name: str, one: Figures) -> list[str]:
    return [
        name,
        f"{one.requests_per_s:.1f}",
        f"{one.failed_per_s:.1f}",
        f"{one.prompt_tokens_per_s:.0f}",
        f"{one.completion_tokens_per_s:.0f}",
        seconds(one.ttft_p50_s),
        seconds(one.ttft_p95_s),
        f"{one.running}/{one.limit}" if one.limit else str(one.running),
        str(one.queued),
        NONE if one.cache_hit_ratio is None else f"{one.cache_hit_ratio:.0%} {one.cache_hits_per_s:.1f}/s",
    ]


def seconds(value: float | None) -> str:
    """A time as people read it."""
    if value is None:
        return NONE
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _errors(view: View) -> str:
    return visible("   ".join(f"{code} {rate:.1f}" for code, rate in view.errors_per_s.items()))


def _replicas(health: Mapping[str, Any]) -> Rows:
    columns = ("replica", "state", "breaker", "in flight", "tokens", "models", "why")
    table = Rows(columns, ("tokens", "breaker", "models", "in flight"))
    for one in health["replicas"]:
        state = "draining" if one["draining"] else "ready" if one["ready"] else "not ready"
        why = "" if one["ready"] else one["why"]
        models = ", ".join(one["models"])
        cells = [one["name"], state, one["breaker"], one["in_flight"], one["load_tokens"], models, why]
        table.add(cells, "" if state == "ready" else "yellow")
    return table


def _engines(health: Mapping[str, Any]) -> Rows:
    table = Rows(("engine", "state", "restarts", "model", "why"), ("model", "restarts"))
    for one in health["engines"]:
        cells = [one["name"], one["state"], one["restarts"], one["model"], one["why"]]
        table.add(cells, "" if one["state"] == "ready" else "yellow")
    return table


def _gpus(view: View) -> Rows:
    table = Rows(("gpu", "busy", "memory", "temp", "power", "faults", "model"), ("model", "faults", "power", "temp"))
    for one in view.gpus:
        table.add([one.name, *_gpu_figures(one), f"{one.faults:.0f}", one.model], "red" if one.faults else "")
    return table


def _gpu_figures(one: Gpu) -> list[str]:
    gib = 1024**3
    used, total = one.memory_used_bytes, one.memory_total_bytes
    return [
        NONE if one.utilization is None else f"{one.utilization:.0%}",
        NONE if used is None or total is None else f"{used / gib:.1f}/{total / gib:.0f} GiB",
        NONE if one.temperature_celsius is None else f"{one.temperature_celsius:.0f} °C",
        NONE if one.power_watts is None else f"{one.power_watts:.0f} W",
    ]
