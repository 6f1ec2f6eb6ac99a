"""How fast may a batch go, and is a line's answer its last?

A batch takes what others leave. Whenever it is told that there is too much it pauses for as long as it was told to, and
asks half as much at once; each answer lets it ask one more, up to its most. A line never ends with "too much": it is
asked again, as often as it takes. What failed at an engine is asked again a few times.
"""

from enum import Enum

TRIES = 5
_PAUSE_S = 1.0
_TOO_MUCH = ("rate_limit_exceeded", "insufficient_quota", "server_is_overloaded", "draining")


class Verdict(Enum):
    """What becomes of a line: it is `DONE`, to be asked again when there is less to do, or asked again as it failed."""

    DONE = "done"
    TOO_MUCH = "too much"
    AGAIN = "again"


def judge(status: int, code: str, *, asked: bool, tries: int) -> Verdict:
    """`asked`: whether an engine was; `tries`: how often this line has failed at one before."""
    if status == 429 or code in _TOO_MUCH or (status == 503 and not asked):
        return Verdict.TOO_MUCH
    if status in (408, 409) or status >= 500:
        return Verdict.AGAIN if tries + 1 < TRIES else Verdict.DONE
    return Verdict.DONE


class Pace:
    """How many lines may be asked at once, `width`, and from when on."""

    def __init__(self, most: int) -> None:
        self.width = most
        self._most = most
        self._from = 0.0

    def __repr__(self) -> str:
        return f"<Pace {self.width}/{self._most}>"

    def wait_s(self, now: float) -> float:
        """How long to wait before the next line is asked."""
        return max(self._from - now, 0.0)

    def answered(self) -> None:
        self.width = min(self.width + 1, self._most)

    def refused(self, retry_after_s: float | None, now: float) -> None:
        """There is too much. Those that are told so in one pause count once."""
        if now >= self._from:
            self.width = max(self.width // 2, 1)
        self._from = max(self._from, now + (retry_after_s if retry_after_s is not None else _PAUSE_S))
