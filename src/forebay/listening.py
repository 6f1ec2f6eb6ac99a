"""A port to listen on, bound before anything is started, so that a taken one is said at once."""

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


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """The URL that reaches a host and port."""
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
