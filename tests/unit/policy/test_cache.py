"""What counts as the same question, what is kept for how long, and who is told what when a leader is done."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.cache import OVERHEAD_BYTES, Entries, Entry, cache_key
from forebay.policy.flights import Flights, Seat, Told, Turn
from forebay.policy.verdict import Outcome
from forebay.wire.canonical import canonical

PATH = b"/v1/chat/completions"
ASKED: dict[str, Any] = {
    "model": "m",
    "temperature": 0,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "a  b"}]}, {"role": "user", "content": "c"}],
}


def form(body: Any, *, stream: bool = False) -> bytes:
    return canonical(body if isinstance(body, bytes) else json.dumps(body).encode(), stream=stream).text


# The canonical form

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(["prompt", "seed", "tools", "x", "Ω"]), VALUES, max_size=4)


@given(BODIES, st.randoms(), st.sampled_from([None, 0, 3, "\t"]))
def test_white_space_and_the_order_of_keys_make_no_difference(body: dict[str, Any], random: Any, indent: Any) -> None:
    shuffled = list(body.items())
    random.shuffle(shuffled)
    assert form(json.dumps(dict(shuffled), indent=indent).encode()) == form(json.dumps(body).encode())


@given(BODIES, BODIES)
def test_two_bodies_share_a_form_only_where_they_say_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert form(one) != form(other)


def test_the_order_of_keys_in_messages_and_their_parts_makes_no_difference() -> None:
    turned = {
        "messages": [{"content": [{"text": "a  b", "type": "text"}], "role": "user"}, {"content": "c", "role": "user"}],
        "temperature": 0,
    }
    assert form(ASKED) == form(turned)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.1},
        {"temperature": 1e-300},
        {"seed": 1},
        {"max_tokens": 5},
        {"n": 2},
        {"stop": ["x"]},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"something_new": 1},
        {"messages": list(reversed(ASKED["messages"]))},
        {"messages": [{"role": "user", "content": "a b"}]},
        {"messages": [{"role": "system", "content": "c"}]},
    ],
)
def test_whatever_the_answer_could_depend_on_makes_a_difference(change: dict[str, Any]) -> None:
    assert form({**ASKED, **change}) != form(ASKED)


@pytest.mark.parametrize("field", ["user", "metadata", "store", "safety_identifier", "model", "stream_options"])
def test_who_asks_and_how_it_is_delivered_makes_none(field: str) -> None:
    assert form({**ASKED, field: {"a": "b"}}) == form(ASKED)


def test_a_streams_options_make_a_difference_to_streams_alone() -> None:
    asking = {**ASKED, "stream_options": {"include_usage": True}}
    assert form(asking, stream=True) != form(ASKED, stream=True)


def test_a_models_view_of_a_schema_keeps_its_order() -> None:
    schema = {"properties": {"a": {}, "b": {}}}
    turned = {"properties": {"b": {}, "a": {}}}
    assert form({**ASKED, "guided_json": schema}) != form({**ASKED, "guided_json": turned})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"seed": 123456789012345678901}', b'{"seed": 123456789012345678902}'),
        (b'{"seed": 9007199254740993}', b'{"seed": 9007199254740992}'),
        (b'{"top_p": 0.1}', b'{"top_p": 0.10000000000000002}'),
        (b'{"n": 1}', b'{"n": true}'),
        (b'{"n": 1}', b'{"n": "1"}'),
        (b'{"x": null}', b"{}"),
        (b'{"x": "a b"}', b'{"x": "ab"}'),
        (b'{"x": "\\" "}', b'{"x": "\\""}'),
    ],
)
def test_what_reads_as_another_number_or_text_makes_a_difference(one: bytes, other: bytes) -> None:
    assert form(one) != form(other)


def test_how_a_number_or_a_text_is_spelt_makes_none() -> None:
    assert form(b'{"x": "\\u0041", "y": 1e2, "z": 1, "z": 2}') == form(b'{"z": 2, "y": 100.0, "x": "A"}')


@pytest.mark.parametrize(
    ("body", "deterministic"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.5}, False),
        ({}, False),
        ({"temperature": None}, False),
        ({"temperature": "0"}, False),
        ({"temperature": False}, False),
        ({"temperature": 1, "seed": 7}, True),
        ({"seed": None}, False),
    ],
)
def test_an_answer_is_repeatable_without_temperature_or_with_a_seed(body: Any, deterministic: bool) -> None:
    assert canonical(json.dumps(body).encode(), stream=False).deterministic is deterministic


@given(st.tuples(*[st.text(max_size=6)] * 2), st.tuples(*[st.text(max_size=6)] * 2), st.booleans())
def test_no_two_tenants_share_a_key(one: tuple[str, str], other: tuple[str, str], stream: bool) -> None:
    keys = [cache_key(*pair, PATH, b"{}", stream=stream) for pair in (one, other)]
    assert (keys[0] == keys[1]) is (one == other)


def test_a_stream_and_a_whole_answer_are_two_entries() -> None:
    assert cache_key("t", "m", PATH, b"", stream=True) != cache_key("t", "m", PATH, b"", stream=False)


# What is kept


def entry(size: int = 0, text: bytes = b"x") -> Entry:
    return Entry(text * size, stream=False)


def test_an_entry_is_given_out_until_its_time_is_over_and_then_takes_no_room() -> None:
    entries = Entries(1_000_000, ttl_s=10)
    entries.put(b"k", entry(1), now=100)
    entries.put(b"short", entry(2), now=100, ttl_s=2)
    entries.put(b"long", entry(2), now=100, ttl_s=2000)
    assert entries.get(b"k", 109.9) == entry(1)
    assert entries.get(b"short", 102) is None
    assert entries.get(b"long", 110) is None
    assert entries.get(b"k", 110) is None
    assert (len(entries), entries.bytes) == (0, 0)


def test_the_least_recently_used_go_when_room_is_needed() -> None:
    room = 20 * (OVERHEAD_BYTES + 100)
    entries = Entries(room, ttl_s=10)
    for number in range(20):
        entries.put(b"%d" % number, entry(100), now=0)
    entries.get(b"0", 1)
    entries.put(b"new", entry(100), now=1)
    assert entries.get(b"0", 1) is not None
    assert entries.get(b"1", 1) is None
    assert (entries.evictions, entries.bytes) == (1, room)


def test_an_answer_too_long_is_not_kept_and_pushes_nothing_out() -> None:
    entries = Entries(160_000, ttl_s=10)
    entries.put(b"k", entry(1), now=0)
    entries.put(b"huge", entry(10_000 - OVERHEAD_BYTES + 1), now=0)
    entries.put(b"large", entry(10_000 - OVERHEAD_BYTES), now=0)
    assert (len(entries), entries.evictions) == (2, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000), st.integers(0, 20)), max_size=60))
def test_the_bytes_are_always_those_of_what_is_kept_and_within_the_bound(steps: list[tuple[str, int, int]]) -> None:
    entries, now = Entries(30_000, ttl_s=15), 0.0
    for key, size, pause in steps:
        now += pause
        entries.put(key.encode(), entry(size), now)
        entries.get(steps[0][0].encode(), now)
        assert entries.bytes <= entries.max_bytes
        assert entries.bytes == sum(kept.size for _, kept in entries._kept.values())
    entries.resize(0, 15)
    assert (len(entries), entries.bytes) == (0, 0)


# Single flight


class Waiting:
    """Someone in a flight, and what they were told."""

    def __init__(self, flights: Flights, key: bytes = b"k") -> None:
        self.told: list[Told] = []
        seat = flights.join(key, self.told.append)
        assert seat is not None
        self.seat: Seat = seat


def test_all_who_wait_have_the_leaders_answer() -> None:
    flights = Flights()
    leader, *others = [Waiting(flights) for _ in range(5)]
    assert leader.seat.leads
    assert not any(other.seat.leads for other in others)
    leader.seat.deliver(entry(3))
    assert [other.told for other in others] == [[entry(3)]] * 4
    assert len(flights) == 0
    for one in (*others, leader):
        one.seat.release("answered", 0)
    assert Waiting(flights).seat.leads


@pytest.mark.parametrize("outcome", ["cancelled", "failed"])
def test_the_next_leads_where_the_leader_fails_or_leaves(outcome: Outcome) -> None:
    flights = Flights()
    leader, second, third = [Waiting(flights) for _ in range(3)]
    leader.seat.release(outcome, 0)
    assert (second.told, third.told) == ([Turn.LEAD], [])
    assert second.seat.leads
    second.seat.release(outcome, 0)
    assert third.told == [Turn.LEAD]
    third.seat.release(outcome, 0)
    assert len(flights) == 0


@pytest.mark.parametrize("outcome", ["answered", "refused"])
def test_each_goes_on_alone_where_there_is_no_answer_to_share(outcome: Outcome) -> None:
    flights = Flights()
    leader, *others = [Waiting(flights) for _ in range(3)]
    leader.seat.release(outcome, 0)
    assert [other.told for other in others] == [[Turn.ALONE]] * 2
    assert len(flights) == 0
    newcomer = Waiting(flights)
    for other in others:
        other.seat.release("failed", 0)
    assert newcomer.seat.leads
    assert len(flights) == 1


def test_who_leaves_is_not_told_and_never_leads() -> None:
    flights = Flights()
    leader, second, third = [Waiting(flights) for _ in range(3)]
    second.seat.release("cancelled", 0)
    leader.seat.release("cancelled", 0)
    assert (second.told, third.told) == ([], [Turn.LEAD])


def test_only_so_many_wait_behind_one() -> None:
    flights = Flights(most_waiting=2)
    Waiting(flights)
    Waiting(flights)
    Waiting(flights)
    assert flights.join(b"k", lambda told: None) is None
    assert flights.join(b"other", lambda told: None) is not None


@given(st.lists(st.tuples(st.sampled_from(["join", "deliver", "cancelled", "failed", "answered"]), st.integers(0, 9))))
def test_a_flight_has_one_leader_as_long_as_anyone_waits(steps: list[tuple[Any, int]]) -> None:
    flights = Flights()
    live: list[Waiting] = []
    for what, which in steps:
        if what == "join":
            live.append(Waiting(flights))
            continue
        if not live:
            continue
        one = live[which % len(live)]
        if what == "deliver":
            if not one.seat.leads:
                continue
            one.seat.deliver(entry(1))
            what = "answered"
        live.remove(one)
        one.seat.release(what, 0)
        waiting = [other for other in live if not other.told and not other.seat.leads]
        leaders = [other for other in live if other.seat.leads]
        assert len(leaders) == (1 if len(flights) else 0)
        assert leaders or not waiting
        assert all(len(other.told) <= 1 for other in live)
