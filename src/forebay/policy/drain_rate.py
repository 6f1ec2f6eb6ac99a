"""How fast do places come free? Measured only while somebody waits: an idle service frees few, and could free many.

Requests that began together end together: a burst's end is a pause, and then many at once. So nothing is known before
the places have changed hands twice, and what is known is of four times.
"""

_ENOUGH, _LAST = 4, 32  # places that came free, at least: to know anything, and to remember
_TURNS_ENOUGH, _TURNS_LAST = 2, 4  # the same in turns of all places


class DrainRate:
    """Places that came free, and the time that this took, both fading."""

    __slots__ = ("_count", "_freed", "_since", "_took_s")

    def __init__(self) -> None:
        self._count = 0
        self._freed = 0.0
        self._took_s = 0.0
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<DrainRate {self._freed:g} in {self._took_s:g} s>"

    def waiting_began(self, now: float) -> None:
        """Somebody waits, and before nobody did."""
        self._since = now

    def freed(self, now: float, places: int) -> None:
        """One of so many places came free, and somebody waited for it."""
        kept = 1 - 1 / max(_LAST, _TURNS_LAST * places)
        self._count += 1
        self._freed = self._freed * kept + 1
        self._took_s = self._took_s * kept + now - self._since
        self._since = now

    def wait_s(self, ahead: float, now: float, *, places: int, waiting: bool) -> float | None:
        """How long until so many of the places have come free; None where too little is known."""
        if self._count < max(_ENOUGH, _TURNS_ENOUGH * places):
            return None
        took_s = self._took_s + (now - self._since if waiting else 0.0)
        return ahead * took_s / self._freed
