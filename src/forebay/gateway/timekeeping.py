"""Everything that has a deadline is looked at a few times a second, so that no request costs a timer."""

import time
from email.utils import formatdate
from time import monotonic
from typing import TYPE_CHECKING

from forebay.absence import absent_during
from forebay.gateway.spare import make_room

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

SWEEP_EVERY_S = 0.25


async def keep_time(gateway: "Gateway") -> None:
    """Keep a gateway's time for ever."""
    while True:
        date = formatdate(time.time(), usegmt=True).encode()
        gateway.date_line = b"date: %s\r\n" % date
        gateway.default_headers = [(b"date", date)]
        now = monotonic()
        gateway.pipeline.sweep(now)
        gateway.recorder.tenants.turn(now)
        for connection in [*gateway.connections, *gateway.watchers]:
            connection.check(now)
        make_room(gateway.connections, min(gateway.settings.max_connections, gateway.most_callers), now)
        for replica in gateway.replicas:
            replica.upstream.close_idle()
        gateway.membership.sweep()
        gateway.local_limits.turn(*day_and_month(time.time()))
        if gateway.local_limits.begun and gateway.shared_limits is None:
            gateway.tell_of_forgetting()
        gateway.local_limits.sweep(now)
        if await absent_during(SWEEP_EVERY_S):
            gateway.pipeline.excuse(monotonic())


def day_and_month(wall: float) -> tuple[int, int]:
    """The day and the month of a wall-clock time, UTC, as 20261231 and 202612."""
    utc = time.gmtime(wall)
    month = utc.tm_year * 100 + utc.tm_mon
    return month * 100 + utc.tm_mday, month
