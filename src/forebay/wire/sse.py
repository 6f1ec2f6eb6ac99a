"""Server-sent events as bytes: where whole events end, and what single ones say.

`EventSplitter` is the hot part: it hands on blocks that end with a whole event, as they are. Only where a policy
needs to look inside does `events_in` take a block apart.
"""

import re
from collections.abc import Iterator

_EVENT_END = re.compile(rb"\n\r?\n")


class EventTooLarge(Exception):
    """An event exceeds the allowed size, bytes."""


class EventSplitter:
    """Cuts a stream of bytes at event boundaries: however the bytes arrive, the same events come out.

    An event ends with an empty line; lines end with LF or CRLF.
    """

    __slots__ = ("_max_event_bytes", "_rest")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()

    @property
    def rest(self) -> bytes:
        """What has arrived of an event that is not whole yet."""
        return bytes(self._rest)

    def push(self, data: bytes) -> bytes:
        """Take bytes in; return all events now whole, or nothing. Raises `EventTooLarge`."""
        rest = self._rest
        if not rest and data.endswith(b"\n\n"):
            return data
        searched = max(len(rest) - 2, 0)
        rest += data
        lf, crlf = rest.rfind(b"\n\n", searched), rest.rfind(b"\n\r\n", searched)
        end = max(lf + 2 if lf >= 0 else 0, crlf + 3 if crlf >= 0 else 0)
        if len(rest) - end > self._max_event_bytes:
            raise EventTooLarge(f"an event is larger than {self._max_event_bytes} bytes")
        whole = bytes(rest[:end])
        del rest[:end]
        return whole


def events_in(block: bytes) -> Iterator[bytes]:
    """The whole events of a block, each with its closing empty line, joined again equal to the block."""
    start = 0
    for end in _EVENT_END.finditer(block):
        yield block[start : end.end()]
        start = end.end()
    if start < len(block):
        yield block[start:]


def data_of(event: bytes) -> bytes:
    """What an event's `data` lines say, joined by LF."""
    lines = [line.rstrip(b"\r") for line in event.split(b"\n")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def has_line_starting(block: bytes, start: bytes) -> bool:
    """Whether a line of the block starts so. What a model wrote never does: JSON escapes line ends."""
    return block.startswith(start) or b"\n" + start in block


def is_only_comments(block: bytes) -> bool:
    """Whether a block of whole events holds nothing but comment lines, the keep-alives of a stream."""
    return all(line in (b"", b"\r") or line.startswith(b":") for line in block.split(b"\n"))
