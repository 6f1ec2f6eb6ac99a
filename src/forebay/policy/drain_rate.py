"""How fast do places come free? Measured only while somebody waits: an idle service frees few, and could free many."""

_KEPT = 31 / 32  # of what was measured, at each place that comes free: the rate is that of the last few dozen
_ENOUGH = 4.0


class DrainRate:
    """Places that came free, and the time that this took, both fading."""

    __slots__ = ("_freed", "_since", "_took_s")

    def __init__(self) -> None:
        self._freed = 0.0
        self._took_s = 0.0
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<DrainRate {self._freed:g} in {self._took_s:g} s>"

    def waiting_began(self, now: float) -> None:
        """Somebody waits, and before nobody did."""
        self._since = now

    def freed(self, now: float) -> None:
        """A place came free, and somebody waited for it."""
        self._freed = self._freed * _KEPT + 1
        self._took_s = self._took_s * _KEPT + now - self._since
        self._since = now

    def wait_s(self, places: float, now: float, *, waiting: bool) -> float | None:
        """How long until so many have come free; None where too little is known."""
        if self._freed < _ENOUGH:
            return None
        took_s = self._took_s + (now - self._since if waiting else 0.0)
        return places * took_s / self._freed
