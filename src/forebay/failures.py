"""What goes wrong on the engines' side. A failure is theirs; a refusal (`refusals.py`) is ours."""

from typing import Literal

FailureKind = Literal["connect", "closed", "invalid", "timeout", "stalled", "local"]


class Failure(Exception):
    """An attempt at an engine failed; `kind` decides what may follow.

    connect  no connection came about; the engine has not seen the request
    closed   the connection ended early; `stale` tells whether not one byte had come on one that had served before
    invalid  what came is not an HTTP answer, or not one that may be relayed
    timeout  nothing came in time
    stalled  the engine as a whole no longer makes progress
    local    no connection came about for want of something of ours, as file descriptors: it says nothing of the engine
    """

    def __init__(self, kind: FailureKind, detail: str, *, stale: bool = False) -> None:
        super().__init__(detail)
        self.kind = kind
        self.stale = stale

    def __repr__(self) -> str:
        return f"<Failure {self.kind}: {self}>"
