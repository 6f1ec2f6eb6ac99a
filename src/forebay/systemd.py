"""What systemd, or whoever does as it does, gives a process and is told by it. No library is needed for either.

A listening socket (`sd_listen_fds(3)`): LISTEN_FDS says how many there are, from descriptor 3 on, LISTEN_PID for whom.
Who holds it outlives us, and so do the connections that nobody has accepted yet: a gateway may be replaced by another
with the same socket, and none is refused.

Notices (`sd_notify(3)`): a datagram to NOTIFY_SOCKET each. READY=1, STOPPING=1, and WATCHDOG=1 twice in WATCHDOG_USEC,
without which the process is taken for one that hangs.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping

FIRST = 3
LOOK_EVERY_S = 0.1


class NotOurSocket(Exception):
    """What was passed cannot be listened on; the message says why."""


def passed_address(env: Mapping[str, str]) -> tuple[str, int] | None:
    """The host and port of the socket that was passed; None where none was. Raises `NotOurSocket`."""
    if env.get("LISTEN_PID") != str(os.getpid()):
        return None
    if env.get("LISTEN_FDS") != "1":
        raise NotOurSocket(f"LISTEN_FDS: {env.get('LISTEN_FDS')} sockets were passed, and one is taken")
    try:
        sock = socket.socket(fileno=FIRST)
    except OSError as failure:
        raise NotOurSocket(f"LISTEN_FDS: descriptor {FIRST} is no socket: {failure.strerror}") from None
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
            raise NotOurSocket("LISTEN_FDS: what was passed is no listening TCP socket (ListenStream=host:port)")
        host, port = sock.getsockname()[:2]
        return host, port
    finally:
        sock.detach()


def passed_socket(env: Mapping[str, str]) -> socket.socket | None:
    """The socket that was passed, for this process alone: none that it starts has it. Raises `NotOurSocket`."""
    if passed_address(env) is None:
        return None
    sock = socket.socket(fileno=FIRST)
    sock.set_inheritable(False)
    return sock


def notify(state: str, env: Mapping[str, str] = os.environ) -> None:
    """Tell whoever started us, if it wants to know."""
    if not (address := env.get("NOTIFY_SOCKET")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(state.encode())


async def keep_told(is_ready: Callable[[], bool], env: Mapping[str, str] = os.environ) -> None:
    """Say once that we are ready, and then, as long as the event loop turns, that we live."""
    if not env.get("NOTIFY_SOCKET"):
        return
    period_s = int(env.get("WATCHDOG_USEC") or 0) / 2e6
    while not is_ready():
        await asyncio.sleep(LOOK_EVERY_S)
    notify("READY=1", env)
    while period_s:
        notify("WATCHDOG=1", env)
        await asyncio.sleep(period_s)
