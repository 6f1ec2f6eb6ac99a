"""Where connections run out: callers have all that they may, and a few more are taken.

On one of those few, whoever watches or administers is answered at once, and whoever else asks is told to come back.
Each is for one request, and soon closed where none comes. When all of them are taken too, a newcomer has the place of
the oldest that is not being answered.

Before it comes to that, connections kept alive that nobody uses make room, those that have rested longest first.
"""

from collections.abc import Collection
from operator import itemgetter
from typing import TYPE_CHECKING

from forebay.descriptors import SPARE
from forebay.gateway.answering import Answering
from forebay.refusals import Overloaded

if TYPE_CHECKING:
    from forebay.gateway.server import ClientConnection

SPARE_IDLE_S = 2.0
CROWDED = 0.9  # of the connections that callers may have


class SpareConnections:
    """Those that are open; oldest first."""

    def __init__(self) -> None:
        self._open: dict[Answering, None] = {}

    def __repr__(self) -> str:
        return f"<SpareConnections {len(self._open)} open>"

    def take(self, connection: Answering, over: int) -> bool:
        """Whether one may stay that makes it so many more than callers may have; if so, it is one of the few."""
        if over > SPARE:
            oldest = next((one for one in self._open if one.current is None), None)
            if oldest is None:
                return False
            del self._open[oldest]
            oldest.transport.abort()
        self._open[connection] = None
        return True

    def forget(self, connection: Answering) -> None:
        """It is closed, and may not have been one of them."""
        self._open.pop(connection, None)


def make_room(connections: Collection["ClientConnection"], most: int, now: float) -> None:
    """Where more than `CROWDED` of the most that may be are open, close as many more, if they have rested a while."""
    over = len(connections) - int(most * CROWDED)
    if over > 0:
        resting = [(rested_s, one) for one in connections if (rested_s := one.rested_s(now)) > SPARE_IDLE_S]
        for _, one in sorted(resting, key=itemgetter(0), reverse=True)[:over]:
            one.transport.close()


def too_many() -> Overloaded:
    """What a caller is told on one."""
    return Overloaded("There are as many connections as may be. Try again shortly.", retry_after_s=2)
