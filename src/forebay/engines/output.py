"""One line of vLLM's output → its level and message, and nothing of a prompt or an answer. Pure.

With `--enable-log-requests`, and at debug level, vLLM tells of requests: what they ask for, and with
`--enable-log-outputs` what they are answered. Of such lines only what they are about is kept. vLLM begins each line of
one message alike (level, time, place), so those that follow one such line with the same beginning are left out.
"""

import logging
import re
from dataclasses import dataclass

MAX_LINE_BYTES = 8192
WITHHELD = "(the rest is not shown: it repeats what the request says)"

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_VLLM_LINE = re.compile(
    r"(?:\((?P<process>[^)]*)\) )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ (?P<message>.*)"
)
_PLACE = re.compile(r"\[[^\]\s]{1,100}:\d+\] ")
_OF_A_REQUEST = re.compile(
    r"(?:\[[^\]\s]{1,100}:\d+\] )?"
    r"(?:Received request \S+:|Generated response \S+|Request \S+ (?:details|JSON body):|Input prompt:)"
)
_LEVELS = logging.getLevelNamesMapping()


@dataclass(frozen=True, slots=True)
class Said:
    """A line. `level` is None where it is none of vLLM's own logging."""

    message: str
    level: int | None


class Output:
    """Reads line after line."""

    def __init__(self) -> None:
        self._leaving_out = ""  # how the lines begin of which nothing more is told

    def read(self, raw: bytes) -> Said | None:
        """None for a line of which nothing is told."""
        text = _ESCAPES.sub("", raw[:MAX_LINE_BYTES].decode("utf-8", "replace")).rstrip()
        found = _VLLM_LINE.match(text)
        message = found["message"] if found else text
        place = _PLACE.match(message)
        beginning = text[: found.start("message") + place.end()] if found and place else ""
        if beginning and beginning == self._leaving_out:
            return None
        of_request = _OF_A_REQUEST.match(message)
        self._leaving_out = beginning if of_request else ""
        if of_request:
            message = f"{of_request[0]} {WITHHELD}"
        return Said(message, _LEVELS[found["level"]] if found else None) if text else None
