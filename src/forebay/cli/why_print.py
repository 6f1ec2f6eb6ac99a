"""What `forebay why ID` prints for people: the verdict, the facts, and a line a step with a bar to the next one."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forebay.talk.screen import visible
from forebay.telemetry.why import seconds

BAR = 24  # characters for the whole time
_STYLES = {"refused": "red", "gave_up": "red", "failed": "red", "left": "yellow", "unrouted": "yellow", "gap": "yellow"}
_ONLY_WIDE = 200  # columns where there is no terminal

Story = Mapping[str, Any]


def print_story(story: Story) -> None:
    """Print a story as the gateway tells it."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(width=_ONLY_WIDE, highlight=False, markup=False)
    try:
        bad = story["outcome"] != "answered"
        console.print(Text(visible(str(story["verdict"])), style="bold red" if bad else "bold"))
        console.print()
        for line in facts(story):
            console.print(Text(visible(line)))
        console.print()
        console.print(_timeline(story))
        for line in others(story):
            console.print(Text(visible(line), style="yellow"))
    except (KeyError, TypeError, ValueError):
        console.print("The gateway tells a story that this version cannot read; --json prints it.")


def facts(story: Story) -> Iterator[str]:
    """Who asked what, when, and what came of it."""
    came = datetime.fromtimestamp(story["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    whose = f"tenant {story['tenant']}, key {story['key_id']}" if story["tenant"] else "no known caller"
    yield f"request {story['request_id']}  {came}  {story['endpoint']} {story['model']}".rstrip()
    yield f"by      {whose}, from {story['client']}"
    answer = f"answer  {story['status'] or 'none yet'} {story['error']}".rstrip() + f", {story['outcome']}"
    if story["completion_tokens"] is not None:
        known = f" ({story['cached_tokens']} known)" if story["cached_tokens"] else ""
        answer += f", tokens {story['prompt_tokens']}{known} in, {story['completion_tokens']} out"
    yield answer
    if limits := story["limits"]:
        left = (
            f"{limits[f'remaining_{of}']} of {limits[f'limit_{of}']} {of}"
            for of in ("requests", "tokens")
            if f"limit_{of}" in limits and f"remaining_{of}" in limits
        )
        yield f"limits  left {', '.join(left)} this minute"
    if timings := story["engine_timings"]:
        parts = {"queued": "queue_time_ms", "first token": "time_to_first_token_ms", "generating": "generation_time_ms"}
        yield "engine  " + ", ".join(
            f"{name} {seconds(timings[of])}" for name, of in parts.items() if timings[of] is not None
        )
    if story["trace_id"]:
        yield f"trace   {story['trace_id']}"


def others(story: Story) -> Iterator[str]:
    """The requests before it that had the same id."""
    if also := story["also"]:
        yield ""
        yield f"This is the latest of {len(also) + 1} requests with this id; those before:"
        for one in also:
            came = datetime.fromtimestamp(one["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
            yield f"  {came}  {one['status']} {one['outcome']}, {seconds(one['duration_ms'])}"


def bar(from_ms: float, to_ms: float, whole_ms: float) -> str:
    """A time's part of the whole, where it stands in it."""
    if whole_ms <= 0:
        return ""
    first, last = round(from_ms / whole_ms * BAR), round(to_ms / whole_ms * BAR)
    if to_ms <= from_ms:
        return " " * min(first, BAR - 1) + "·"
    return " " * min(first, BAR - 1) + "█" * max(last - first, 1)


def _timeline(story: Story) -> Table:
    """A row a step, each with the time until the next one, and where that stands in the whole."""
    table = Table(box=None, pad_edge=False)
    for name in ("at", "for"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=BAR)
    table.add_column("step", no_wrap=True)
    table.add_column("what was decided", overflow="fold")
    steps, whole = [{"at_ms": 0.0, "what": "came", "detail": {}}, *story["steps"]], story["duration_ms"]
    ends = [*(step["at_ms"] for step in steps[1:]), whole]
    for step, end in zip(steps, ends, strict=True):
        at, what = step["at_ms"], step["what"]
        cells = ["0 ms" if at == 0 else seconds(at), seconds(end - at) if end > at else "", bar(at, end, whole)]
        cells += [visible(what.replace("_", " ")), visible(said(step))]
        table.add_row(*(Text(cell, style=_STYLES.get(what, "")) for cell in cells))
    return table


def said(step: Mapping[str, Any]) -> str:
    """A step's details in words."""
    detail = step["detail"]
    match step["what"]:
        case "queued":
            about = f", about {seconds(detail['wait_s'] * 1e3)} to wait" if detail.get("wait_s") else ""
            line = f"{detail['running']} of {detail['places']} running, {detail['waiting']} waiting"
            for_what = detail["waits_for"].replace("_", " ")
            return f"place {detail['ahead']} in line, {for_what}: {line}, {detail['of_tenant']} of its tenant's{about}"
        case "attempt":
            return f"{detail['replica']}: {detail['why'].replace('_', ' ')}{_passed(detail)}"
        case "unrouted":
            return f"no replica can be asked{_passed(detail)}"
        case "failed":
            return f"{detail['kind']}: {detail['detail']}"
        case "resumed":
            return f"at event {detail['events']}"
        case "gap":
            return f"nothing came for {seconds(detail['ms'])}"
        case "cache":
            return str(detail["state"])
    return ", ".join(f"{name} {value}" for name, value in detail.items() if value is not None)


def _passed(detail: Mapping[str, Any]) -> str:
    passed = ", ".join(f"{name} {why}" for name, why in detail["passed_by"].items())
    return f"; not {passed}" if passed else ""
