"""How many callers may be connected, by the file descriptors that this process may open.

A request takes two, its caller's connection and one to an engine. Some are kept for all else: `SPARE` connections of
those who watch and administer, and `BESIDE` for the metrics port, health checks, files and databases.
"""

import errno
import os
import resource
import socket

SPARE = 16
BESIDE = 56

# What an OSError says when this machine, rather than the other side, is why there is no connection
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


def most_callers() -> int:
    """Connections of callers that there is room for, at least one. For a process that has none yet."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return 2**31
    return callers_within(most, len(os.listdir("/proc/self/fd")))


def callers_within(most: int, open_now: int) -> int:
    """The same for a limit, and what is open already."""
    return max((most - open_now - SPARE - BESIDE) // 2, 1)


def is_ours(error: Exception) -> bool:
    """Whether no connection came about for want of something of ours. A name that is not found may be so too: the
    libraries that look it up read files, and do not tell why they could not."""
    if isinstance(error, socket.gaierror):
        return _none_left()
    return isinstance(error, OSError) and error.errno in _OURS


def _none_left() -> bool:
    """Whether not even two files can be opened."""
    opened = []
    try:
        for _ in range(2):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _OURS
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False
