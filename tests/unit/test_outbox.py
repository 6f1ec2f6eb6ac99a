"""Writes of one turn of the loop go out at its end, in their order, unless they are too many to wait."""

import asyncio

from forebay.outbox import MOST_BYTES, MOST_WRITES, Outbox


class Sink(asyncio.WriteTransport):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing


async def test_a_turn_s_writes_go_out_together_at_its_end() -> None:
    outbox, one, other = Outbox(), Sink(), Sink()
    outbox.put(one, b"1")
    outbox.put(other, b"2")
    outbox.put(one, b"3")
    assert one.written == other.written == []
    await asyncio.sleep(0)
    assert (one.written, other.written) == ([b"1", b"3"], [b"2"])
    outbox.put(one, b"4")
    await asyncio.sleep(0)
    assert one.written == [b"1", b"3", b"4"]


async def test_what_is_flushed_is_not_written_again() -> None:
    outbox, sink = Outbox(), Sink()
    outbox.put(sink, b"1")
    outbox.flush()
    assert sink.written == [b"1"]
    outbox.put(sink, b"2")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sink.written == [b"1", b"2"]


async def test_many_writes_do_not_wait_for_the_turn_s_end() -> None:
    outbox, sink = Outbox(), Sink()
    for _ in range(MOST_WRITES):
        outbox.put(sink, b"x")
    assert len(sink.written) == MOST_WRITES


async def test_nor_do_many_bytes() -> None:
    outbox, sink = Outbox(), Sink()
    outbox.put(sink, b"x" * MOST_BYTES)
    assert sink.written == []
    outbox.put(sink, b"x")
    assert [len(data) for data in sink.written] == [MOST_BYTES, 1]


async def test_nothing_is_written_to_a_transport_that_has_closed() -> None:
    outbox, gone, open_ = Outbox(), Sink(), Sink()
    outbox.put(gone, b"1")
    outbox.put(open_, b"2")
    gone.closing = True
    await asyncio.sleep(0)
    assert (gone.written, open_.written) == ([], [b"2"])
