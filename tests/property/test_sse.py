"""However a stream's bytes arrive, the same events come out."""

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.wire.sse import EventSplitter, EventTooLarge, data_of, events_in

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
END = st.sampled_from(["\n", "\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Whole events: data lines, comments, other fields, with either line end."""
    events = []
    for _ in range(draw(st.integers(1, 6))):
        end = draw(END)
        lines = draw(st.lists(st.tuples(st.sampled_from(["data: ", ": ", "event: ", "data:"]), LINE), min_size=1))
        events.append(("".join(name + line + end for name, line in lines) + end).encode())
    return events


@given(streams(), st.data())
def test_any_split_gives_the_same_events(events: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    splitter = EventSplitter(max_event_bytes=100_000)
    blocks = [splitter.push(piece) for piece in pieces]
    assert b"".join(blocks) == stream
    assert splitter.rest == b""
    assert [event for block in blocks for event in events_in(block)] == list(events_in(stream)) == events


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_no_byte_is_lost_or_made_up(pieces: list[bytes]) -> None:
    splitter = EventSplitter(max_event_bytes=100_000)
    blocks = [splitter.push(piece) for piece in pieces]
    assert b"".join(blocks) + splitter.rest == b"".join(pieces)
    assert all(b"".join(events_in(block)) == block for block in blocks)
    assert all(block.endswith((b"\n\n", b"\n\r\n")) for block in blocks if block)


@given(st.integers(1, 50))
def test_an_event_that_does_not_end_is_too_large_at_last(size: int) -> None:
    splitter = EventSplitter(max_event_bytes=1000)
    for _ in range(1000 // size):
        assert splitter.push(b"x" * size) == b""
    with pytest.raises(EventTooLarge):
        splitter.push(b"x" * size)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_many_events_cost_each_the_same(end: bytes) -> None:
    """B7: what a socket brings in one piece is taken apart in milliseconds, though it is all events."""
    block = (b'data: {"usage":1}' + end) * 13_000
    began = process_time()
    assert sum(1 for _ in events_in(block)) == 13_000
    assert process_time() - began < 0.05


@given(st.lists(LINE, min_size=1))
def test_the_data_lines_of_an_event_are_joined(lines: list[str]) -> None:
    event = "".join(f"data: {line}\n" for line in lines) + ": comment\n\n"
    assert data_of(event.encode()) == "\n".join(lines).encode()
