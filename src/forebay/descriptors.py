"""How many callers may be connected, by the file descriptors that this process may open.

A request takes two, its caller's connection and one to an engine. Some are kept for all else: `SPARE` connections of
those who watch and administer, and `BESIDE` for the metrics port, health checks, files and databases.
"""

import errno
import os
import resource

SPARE = 16
BESIDE = 56

# What an OSError says when this machine, rather than the other side, is why there is no connection
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


def most_callers() -> int:
    """Connections of callers that there is room for, at least one. For a process that has none yet."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return 2**31
    return callers_within(most, len(os.listdir("/proc/self/fd")))


def callers_within(most: int, open_now: int) -> int:
    """The same for a limit, and what is open already."""
    return max((most - open_now - SPARE - BESIDE) // 2, 1)
