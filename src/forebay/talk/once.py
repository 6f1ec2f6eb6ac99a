"""One answer, printed as it comes or whole, as text or as JSON."""

import json
from collections.abc import Iterable
from time import monotonic
from typing import Any

from forebay.talk.heard import Heard
from forebay.talk.screen import Screen


def print_answer(events: Iterable[dict[str, Any]], screen: Screen, *, as_they_come: bool, as_json: bool) -> None:
    """Print it; of half an answer, which raises `NoAnswer`, only what came before when it is printed as it comes."""
    heard = Heard(monotonic())
    try:
        for event in events:
            thought, said = heard.take(event, monotonic())
            if as_they_come and as_json:
                screen.show("", _line({"delta": said}) if said else "")
            elif as_they_come:
                screen.show(thought, said)
        if as_json:
            screen.show("", _line(summary(heard, monotonic())))
        elif not as_they_come:
            screen.show("", heard.text)
    finally:
        screen.end_line()


def summary(heard: Heard, now: float) -> dict[str, Any]:
    """An answer and its figures."""
    return {
        "text": heard.text,
        "model": heard.model,
        "finish_reason": heard.finish_reason,
        "prompt_tokens": heard.prompt_tokens,
        "completion_tokens": heard.tokens,
        "time_to_first_token_s": _rounded(heard.ttft_s),
        "tokens_per_s": _rounded(heard.tokens_per_s),
        "duration_s": _rounded(now - heard.began),
    }


def _line(told: dict[str, Any]) -> str:
    return json.dumps(told) + "\n"


def _rounded(number: float | None) -> float | None:
    return round(number, 4) if number is not None else None
