"""Which requests have their line in the access log: all that failed or were slow, and a share of the others."""

from random import random

FIRST_ERROR = 400


class AccessSampling:
    """`ratio` of the requests that are answered well within `slow_s` seconds, and all others."""

    __slots__ = ("ratio", "slow_s")

    def __init__(self, ratio: float = 1.0, slow_s: float = 30.0) -> None:
        self.ratio = ratio
        self.slow_s = slow_s

    def keeps(self, status: int, duration_s: float, *, well: bool = True) -> bool:
        """`well`: whether it ended as it should; an answer that was cut short has begun with 200 all the same."""
        return (
            self.ratio >= 1
            or not well
            or not status < FIRST_ERROR
            or duration_s >= self.slow_s
            or random() < self.ratio  # noqa: S311
        )
