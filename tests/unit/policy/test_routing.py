"""Which replica is chosen, by each rule, and which are never."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.affinity import Affinity
from forebay.policy.routing import BOUND, FLOOR_TOKENS, Group, Routing, Strategy
from forebay.refusals import EngineUnavailable
from tests.unit.policy.candidates import Candidate, open_breaker, pool_of

RULES: list[Strategy] = ["round_robin", "least_outstanding", "prefix"]
every_rule = pytest.mark.parametrize("rule", RULES)


def conversation(number: int) -> Affinity:
    """Numbers as far apart as hashes are."""
    return Affinity(number * 0x9E3779B97F4A7C15 % 2**64, True)


def of(*replicas: Candidate) -> list[Group[Candidate]]:
    return [Group(list(replicas))]


def test_the_least_busy_ready_replica_is_chosen_and_ties_are_shared() -> None:
    busy, free, down = Candidate("a", load=3), Candidate("b", load=1), Candidate("c", ready=False)
    routing, groups = Routing("least_outstanding"), of(busy, free, down)
    assert all(routing.choose(groups, 0.0)[0] is free for _ in range(5))
    equal = of(*pool_of(3))
    chosen = Counter(routing.choose(equal, 0.0)[0].name for _ in range(6))
    assert set(chosen.values()) == {2}


@every_rule
def test_the_replica_to_avoid_is_never_chosen(rule: Strategy) -> None:
    failed, other = Candidate("a"), Candidate("b", load=9 * FLOOR_TOKENS)
    routing, groups = Routing(rule), of(failed, other)
    for number in range(20):
        assert routing.choose(groups, 0.0, conversation(number), avoid=failed)[0] is other
    other.draining = True
    with pytest.raises(EngineUnavailable):
        routing.choose(groups, 0.0, conversation(1), avoid=failed)
    with pytest.raises(EngineUnavailable):
        routing.choose([], 0.0)


@every_rule
def test_an_open_breaker_leaves_a_replica_out_until_most_are_open(rule: Strategy) -> None:
    good, *others = Candidate("a", load=50), *[Candidate(name) for name in "bcde"]
    for replica in others:
        replica.breaker = open_breaker()
    bad = others[0]
    routing = Routing(rule)

    def chosen_of(*replicas: Candidate, now: float) -> set[str]:
        groups = of(*replicas)
        return {routing.choose(groups, now, conversation(number))[0].name for number in range(64)}

    assert chosen_of(good, bad, now=1.0) == {"a"}
    assert chosen_of(good, *others[:3], now=1.0) == {"a"}
    assert chosen_of(good, *others, now=1.0) - {"a"}, "panic: one of five cannot carry it all"
    assert chosen_of(bad, now=1.0) == {"b"}, "the last one is never closed off"
    assert "b" in chosen_of(good, bad, now=60.0), "its pause is over: a trial"


@every_rule
@pytest.mark.parametrize("size", [16, 17, 1000])
def test_a_lone_ready_replica_is_found(rule: Strategy, size: int) -> None:
    pool = pool_of(size)
    for replica in pool:
        replica.ready = replica is pool[size // 2]
    routing, groups = Routing(rule), of(*pool)
    for number in range(10):
        assert routing.choose(groups, 0.0, conversation(number))[0] is pool[size // 2]


@pytest.mark.parametrize("size", [2, 3, 16, 17, 34, 100])
def test_round_robin_spreads_exactly_even_over_those_that_are_up(size: int) -> None:
    pool = pool_of(size)
    pool[1].ready = False
    routing, groups = Routing("round_robin"), of(*pool)
    chosen = Counter(routing.choose(groups, 0.0)[0].name for _ in range(5 * (size - 1)))
    assert len(chosen) == size - 1
    assert set(chosen.values()) == {5}


def test_turns_of_different_groups_do_not_disturb_each_other() -> None:
    routing, one, two = Routing("round_robin"), of(*pool_of(2)), of(*pool_of(2))
    chosen = [(routing.choose(one, 0.0)[0].name, routing.choose(two, 0.0)[0].name) for _ in range(4)]
    assert set(chosen) == {("replica-0", "replica-0"), ("replica-1", "replica-1")}


def test_a_large_pool_is_searched_in_windows_and_stays_level() -> None:
    pool = pool_of(100)
    routing, groups = Routing("least_outstanding"), of(*pool)
    for number in range(1000):
        routing.choose(groups, 0.0)[0].load += 100 + number % 7 * 100
    loads = [replica.load for replica in pool]
    assert max(loads) < 1.3 * sum(loads) / len(loads)


@pytest.mark.parametrize("size", [3, 16, 17, 200])
def test_a_conversation_keeps_its_replica_and_many_use_all(size: int) -> None:
    routing, groups = Routing("prefix"), of(*pool_of(size))
    first = [routing.choose(groups, 0.0, conversation(number))[0] for number in range(30 * size)]
    again = [routing.choose(groups, 0.0, conversation(number))[0] for number in range(30 * size)]
    assert first == again
    assert len({replica.name for replica in first}) == size


@pytest.mark.parametrize("size", [3, 16, 100])
def test_when_a_replica_goes_only_its_conversations_move(size: int) -> None:
    pool = pool_of(size)
    routing, groups = Routing("prefix"), of(*pool)
    before = {number: routing.choose(groups, 0.0, conversation(number))[0] for number in range(1000)}
    pool[1].ready = False
    after = {number: routing.choose(groups, 0.0, conversation(number))[0] for number in range(1000)}
    for number, was in before.items():
        assert (after[number] is was) == (was is not pool[1])
    pool[1].ready = True
    assert before == {number: routing.choose(groups, 0.0, conversation(number))[0] for number in range(1000)}


def test_a_little_load_does_not_move_a_conversation() -> None:
    pool = pool_of(3)
    routing, groups = Routing("prefix"), of(*pool)
    own = routing.choose(groups, 0.0, conversation(1))[0]
    own.load = FLOOR_TOKENS
    assert routing.choose(groups, 0.0, conversation(1))[0] is own
    own.load += 1
    assert routing.choose(groups, 0.0, conversation(1))[0] is not own
    own.load -= 1
    assert routing.choose(groups, 0.0, conversation(1))[0] is own


@pytest.mark.parametrize("size", [3, 16, 100])
def test_where_all_are_busy_conversations_keep_their_replicas(size: int) -> None:
    pool = pool_of(size)
    routing, groups = Routing("prefix"), of(*pool)
    idle = [routing.choose(groups, 0.0, conversation(number))[0] for number in range(200)]
    for number, replica in enumerate(pool):
        replica.load = 50 * FLOOR_TOKENS + number % 3 * FLOOR_TOKENS
    assert [routing.choose(groups, 0.0, conversation(number))[0] for number in range(200)] == idle


@pytest.mark.parametrize("size", [2, 3, 16, 100])
def test_a_hot_conversation_spills_over_and_no_replica_is_far_above_the_mean(size: int) -> None:
    pool = pool_of(size)
    routing, groups = Routing("prefix"), of(*pool)
    cost = 500
    for _ in range(size * 40):
        routing.choose(groups, 0.0, conversation(7))[0].load += cost
    mean = size * 40 * cost / size
    sampled = 1 if size <= 16 else 1.25  # a window's mean is near the mean of all
    assert max(replica.load for replica in pool) <= BOUND * mean * sampled + cost
    assert sum(replica.load > 0 for replica in pool) >= size / BOUND / sampled - 1


@given(
    loads=st.lists(st.integers(0, 100_000), min_size=1, max_size=16),
    key=st.integers(0, 2**64 - 1),
)
def test_in_a_small_pool_nobody_over_the_bound_is_chosen(loads: list[int], key: int) -> None:
    pool = pool_of(len(loads))
    for replica, load in zip(pool, loads, strict=True):
        replica.load = load
    chosen = Routing("prefix").choose(of(*pool), 0.0, Affinity(key, True))[0]
    assert chosen.load <= max(BOUND * sum(loads) / len(loads), FLOOR_TOKENS)


@given(
    states=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=40),
    rule=st.sampled_from(RULES),
    key=st.integers(0, 2**64 - 1),
)
def test_a_replica_that_may_not_be_asked_never_is_and_one_that_may_is_found(
    states: list[tuple[bool, bool, bool]], rule: Strategy, key: int
) -> None:
    pool = pool_of(len(states))
    for replica, (ready, draining, is_open) in zip(pool, states, strict=True):
        replica.ready, replica.draining = ready, draining
        if is_open:
            replica.breaker = open_breaker()
    avoid = pool[0]
    up = [replica for replica in pool[1:] if replica.ready and not replica.draining]
    if not up:
        with pytest.raises(EngineUnavailable):
            Routing(rule).choose(of(*pool), 1.0, Affinity(key, True), avoid)
        return
    chosen = Routing(rule).choose(of(*pool), 1.0, Affinity(key, True), avoid)[0]
    assert chosen in up
    closed = [replica for replica in up if replica.breaker.may_ask(1.0)]
    if len(pool) <= 16 and 2 * len(closed) >= len(up):
        assert chosen in closed


def test_without_a_conversation_prefix_is_least_outstanding() -> None:
    busy, free = Candidate("a", load=5), Candidate("b", load=4)
    routing, groups = Routing("prefix"), of(busy, free)
    assert all(routing.choose(groups, 0.0, affinity)[0] is free for affinity in (None, Affinity(1, False)) * 5)


def test_the_conversation_is_asked_for_only_where_it_matters() -> None:
    one, many = of(*pool_of(1)), of(*pool_of(2))
    assert [Routing(rule).wants_affinity(many) for rule in RULES] == [False, False, True]
    assert [Routing(rule).wants_affinity(one) for rule in RULES] == [False] * 3
    assert all(Routing(rule).wants_affinity(one + one) for rule in RULES)
    assert not Routing("prefix").wants_affinity([])
