"""What is cut out of a conversation fits, wastes little, keeps what must stay, and takes few counts."""

from collections.abc import Sequence
from math import log2

from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.trimming import GUESSES, choose_cut, is_settled

FRAME = 4  # tokens that the template adds to each turn


def tokens_behind(cut: int, fixed: int, turns: Sequence[tuple[int, int]]) -> int:
    return fixed + sum(tokens + FRAME for _, tokens in turns[cut:])


def chosen(fixed: int, turns: Sequence[tuple[int, int]], hint: int, room: int) -> tuple[int | None, int]:
    """The cut, and how many counts it took."""
    choosing = choose_cut(4 * fixed, [size for size, _ in turns], hint, room)
    asked, cut = 0, next(choosing)
    try:
        while True:
            asked += 1
            assert 0 <= cut <= len(turns)
            cut = choosing.send(tokens_behind(cut, fixed, turns))
    except StopIteration as stopped:
        return stopped.value, asked


# A turn's bytes, and its tokens: at most as many.
TURNS = st.lists(
    st.integers(1, 4000).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))), max_size=300
)


@given(st.integers(0, 2000), TURNS, st.floats(0, 1), st.integers(64, 20_000))
def test_what_is_left_fits_and_no_older_turn_is_left_out_in_vain(
    fixed: int, turns: Sequence[tuple[int, int]], part: float, room: int
) -> None:
    cut, asked = chosen(fixed, turns, int(part * len(turns)), room)
    assert asked <= GUESSES + 2 + log2(len(turns) + 1)
    if cut is None:
        assert tokens_behind(len(turns), fixed, turns) > room
        return
    tokens = tokens_behind(cut, fixed, turns)
    assert tokens <= room
    assert is_settled(tokens, cut, room) or tokens_behind(cut - 1, fixed, turns) > room


@given(st.integers(0, 100), TURNS)
def test_what_fits_as_it_is_costs_one_count_and_stays(fixed: int, turns: Sequence[tuple[int, int]]) -> None:
    assert chosen(fixed, turns, 0, tokens_behind(0, fixed, turns)) == (0, 1)


def test_turns_that_are_alike_are_cut_to_three_quarters_with_two_counts() -> None:
    turns = [(400, 100)] * 40
    cut, asked = chosen(50, turns, 0, 1792)
    assert asked == 2
    assert cut is not None
    assert 1792 * 0.6 < tokens_behind(cut, 50, turns) <= 1792 * 0.78
