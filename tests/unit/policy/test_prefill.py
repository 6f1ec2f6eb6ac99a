"""What engines may have to read."""

from math import inf

import pytest

from forebay.policy.line import Place
from forebay.policy.prefill import ENOUGH_TOKENS, FEWEST_TOKENS, FRESH_S
from tests.unit.policy.line import MODEL, Admitted, admitted, is_in, refused

LONG = 1000


def flood(line: Admitted, number: int, tokens: int = LONG, *, stream: bool = True, now: float = 0.0) -> list[Place]:
    """The requests of a tenant that asks for all at once."""
    return [line.ask("greedy", tokens, now, stream=stream) for _ in range(number)]


def running(places: list[Place]) -> int:
    return sum(map(is_in, places))


def test_no_more_prompts_are_sent_than_engines_should_have_to_read() -> None:
    line = admitted(64, prefill_s=1.0)
    assert running(flood(line, 20)) == FEWEST_TOKENS // LONG
    assert line.prefill.unread == FEWEST_TOKENS // LONG * LONG


def test_without_a_bound_places_are_all_that_counts() -> None:
    line = admitted(16, prefill_s=inf)
    assert running(flood(line, 20)) == 16
    assert line.prefill.unread == 0


def test_who_was_served_less_goes_next_though_many_wait_and_where_its_prompt_fits_at_once() -> None:
    line = admitted(64, prefill_s=1.0)
    greedy = flood(line, 20)
    assert is_in(line.ask("quiet", 20, 0.0)), "there was room for it"
    late = line.ask("quiet", LONG, 0.0)
    assert not is_in(late)
    greedy[0].read(0.5, 0.5)
    greedy[1].read(6.0, 6.0)
    assert is_in(late)
    assert running(greedy) == FEWEST_TOKENS // LONG + 1, "they take turns"


def test_a_prompt_that_is_larger_than_the_bound_goes_alone() -> None:
    line = admitted(64, prefill_s=1.0)
    first, large = line.ask("a", 10, 0.0), line.ask("b", 10 * FEWEST_TOKENS, 0.0)
    small = line.ask("b", 10, 0.0)
    assert not is_in(large)
    first.read(0.1, 0.1)
    assert is_in(large)
    assert not is_in(small)
    large.read(9.0, 8.9)
    assert is_in(small)


def test_the_bound_is_what_engines_read_in_the_time_set() -> None:
    line = admitted(64, prefill_s=2.0)
    for place in flood(line, 4):
        place.read(0.1, 0.1)  # the last of them was behind 4,000 tokens
    assert line.prefill.most > 20 * FEWEST_TOKENS / 3
    for _ in range(60):
        now = FRESH_S / 2
        for place in flood(line, 4, now=now):
            place.read(now + 4, 4.0)
            place.release("answered", now + 4)
    assert line.prefill.most == FEWEST_TOKENS, "they have become slow"


def test_the_first_token_behind_a_short_prompt_tells_nothing_of_how_fast_prompts_are_read() -> None:
    line = admitted(64, prefill_s=1.0)
    line.ask("a", ENOUGH_TOKENS - 1, 0.0).read(0.001, 0.001)
    assert line.prefill.most == FEWEST_TOKENS


def test_a_rate_that_was_not_seen_for_long_is_forgotten() -> None:
    line = admitted(64, prefill_s=1.0)
    line.ask("a", 4000, 0.0).read(0.01, 0.01)
    assert line.prefill.most > 100_000
    line.admission.sweep(FRESH_S + 1)
    assert line.prefill.most == FEWEST_TOKENS


def test_an_engine_that_never_answers_does_not_keep_the_others_work_from_them() -> None:
    line = admitted(64, prefill_s=1.0)
    lost = flood(line, 3)
    assert not is_in(lost[2])
    line.admission.sweep(11.0)
    assert is_in(lost[2])
    for place in lost:
        place.release("failed", 12.0)
    assert line.prefill.unread == 0


def test_who_would_be_at_an_engine_but_for_its_prompt_may_wait_as_long_as_there() -> None:
    line = admitted(8, prefill_s=1.0, patience_s=5.0, reading_s=60.0)
    first, *waiting = flood(line, 10, 2 * FEWEST_TOKENS)
    line.admission.sweep(4.0)
    assert [refused(place) for place in waiting] == [False] * 9
    line.admission.sweep(6.0)
    assert [refused(place) for place in waiting] == [False] * 7 + [True] * 2, "for those there was no place either"
    first.read(7.0, 7.0)
    assert is_in(waiting[0])


def test_whole_answers_are_bounded_only_where_it_is_known_how_fast_prompts_are_read() -> None:
    line = admitted(64, prefill_s=1.0)
    assert running(flood(line, 8, stream=False)) == 8, "nothing tells when they are read"
    line.ask("quiet", 100, 0.0).read(0.9, 0.9)  # behind 8,000 of them: about 9,000 a second
    assert 8000 < line.prefill.most < 10_000
    later = flood(line, 20, stream=False, now=1.0)
    assert running(later) == 9
    line.admission.sweep(1.8)
    assert running(later) == 9
    line.admission.sweep(2.5)  # by then half of what was sent is presumed to be read
    assert 9 < running(later) < 20


@pytest.mark.parametrize("stream", [True, False])
def test_whatever_becomes_of_a_request_its_prompt_counts_no_longer(stream: bool) -> None:
    line = admitted(64, prefill_s=1.0)
    known, *places = flood(line, 3, 1300, stream=stream)
    known.read(0.1, 0.1)
    places[0].release("cancelled", 0.2)
    places[1].read(0.3, 0.3)
    places[1].release("answered", 0.4)
    known.release("answered", 0.5)
    assert line.prefill.unread == 0
    assert line.running == 0
    assert MODEL in line.admission.lines
