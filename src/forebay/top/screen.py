"""A view of a gateway as it is drawn on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forebay.talk.screen import visible
from forebay.top.figures import Figures, View

NONE = "–"
_COLUMNS = ("model", "req/s", "failed/s", "in tok/s", "out tok/s", "TTFT p50", "TTFT p95", "running", "queued", "hits")


def draw(url: str, view: View, health: Mapping[str, Any], problem: str = "") -> RenderableType:
    """One frame; `problem` tells why it is not newer."""
    parts: list[RenderableType] = [_title(url, health), _models(view)]
    parts += [Text(f"errors/s  {_errors(view)}", style="red")] if view.errors_per_s else []
    parts += [_replicas(health)] if health.get("replicas") else []
    parts += [_engines(health)] if health.get("engines") else []
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


def _models(view: View) -> Table:
    table = _table(*_COLUMNS)
    for name, figures in view.models.items():
        table.add_row(*_row(name, figures))
    if len(view.models) != 1:
        table.add_row(*_row("all", view.total), style="bold")
    return table


def _row(name: str, one: Figures) -> list[str]:
    return [
        visible(name),
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


def _replicas(health: Mapping[str, Any]) -> Table:
    table = _table("replica", "state", "breaker", "in flight", "tokens", "models", "why")
    for one in health["replicas"]:
        state = "draining" if one["draining"] else "ready" if one["ready"] else "not ready"
        why = "" if one["ready"] else one["why"]
        cells = [
            one["name"],
            state,
            one["breaker"],
            one["in_flight"],
            one["load_tokens"],
            ", ".join(one["models"]),
            why,
        ]
        table.add_row(*(visible(str(cell)) for cell in cells), style="" if state == "ready" else "yellow")
    return table


def _engines(health: Mapping[str, Any]) -> Table:
    table = _table("engine", "state", "restarts", "model", "why")
    for one in health["engines"]:
        cells = [one["name"], one["state"], one["restarts"], one["model"], one["why"]]
        table.add_row(*(visible(str(cell)) for cell in cells), style="" if one["state"] == "ready" else "yellow")
    return table


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, title_justify="left", show_edge=False)
    for column in table.columns[1:]:
        column.no_wrap = True
    return table
