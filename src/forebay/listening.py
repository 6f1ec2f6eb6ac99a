"""A port to listen on, bound before anything is started, so that a taken one is said at once; and how soon a client is
found that went away without a word: its machine lost its power, or a firewall forgot the connection.
"""

import socket


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(4096)
    except OSError:
        sock.close()
        raise
    return sock


IDLE_S, EVERY_S, TIMES = 20, 8, 3  # so a silent connection whose other end is gone is found within 44 s
UNANSWERED_S = 45.0


def find_the_gone(sock: socket.socket, unread_s: float) -> None:
    """Have the kernel look after the connections that a socket accepts from now on: they inherit its options.

    It ends one whose client answers nothing for `UNANSWERED_S`. A client that answers, and reads nothing, is ours to
    cut off, after `unread_s`; the kernel would do so too, and so has to be the later one.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TIMES)
    unanswered_ms = int(max(UNANSWERED_S, 1.5 * unread_s) * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unanswered_ms)


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """The URL that reaches a host and port."""
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
