"""What is written during one turn of the event loop goes out together, at the turn's end.

uvloop writes at once: with many requests under way that is a system call in the middle of each, and, where the reader
sleeps on another processor, an interrupt to wake it for a few hundred bytes. Together they cost half (see
docs/performance.md). A turn with one write delays nothing: its end is the next thing to come.

Whoever writes to a transport through an outbox must write everything so, and flush it before ending the transport.
"""

import asyncio

from forebay.room import Held

MOST_WRITES = 32  # beyond these it does not wait for the turn's end, so that nothing is late, and
MOST_BYTES = 1 << 20  # back-pressure is felt in time


class Outbox:
    """Writes in their order, to any number of transports of one event loop."""

    __slots__ = ("_bytes", "_writes")

    def __init__(self) -> None:
        self._writes: list[tuple[asyncio.WriteTransport, Held]] = []
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Outbox {len(self._writes)} writes, {self._bytes} bytes>"

    def put(self, transport: asyncio.WriteTransport, data: Held) -> None:
        """Write soon; not at all if the transport is closed before."""
        writes = self._writes
        if not writes:
            asyncio.get_running_loop().call_soon(self.flush)
        writes.append((transport, data))
        self._bytes += len(data)
        if len(writes) >= MOST_WRITES or self._bytes > MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write all there is now."""
        writes, self._writes = self._writes, []
        self._bytes = 0
        for transport, data in writes:
            if not transport.is_closing():
                transport.write(data)
