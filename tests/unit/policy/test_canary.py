"""Which group of replicas a conversation belongs to."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.affinity import Affinity
from forebay.policy.routing import Group, Routing, Strategy
from forebay.refusals import EngineUnavailable
from tests.unit.policy.candidates import Candidate, open_breaker

KEYS = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(10_000)]
RULES: list[Strategy] = ["round_robin", "least_outstanding", "prefix"]


def groups_of(**weights: int) -> list[Group[Candidate]]:
    return [
        Group([Candidate(f"{name}-{number}") for number in range(3)], name, weight) for name, weight in weights.items()
    ]


def homes(groups: list[Group[Candidate]], rule: Strategy = "prefix", *, conversation: bool = True) -> list[str]:
    """The group that each of 10,000 keys is served by."""
    routing = Routing(rule)
    return [routing.choose(groups, 1.0, Affinity(key, conversation))[0].name.partition("-")[0] for key in KEYS]


def shares(of: list[str]) -> dict[str, float]:
    return {name: 100 * count / len(of) for name, count in Counter(of).items()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("conversation", [True, False], ids=["conversations", "callers"])
def test_groups_get_their_shares_within_a_point_and_keep_their_keys(rule: Strategy, conversation: bool) -> None:
    groups = groups_of(stable=70, next=25, canary=5)
    found = homes(groups, rule, conversation=conversation)
    assert shares(found) == pytest.approx({"stable": 70, "next": 25, "canary": 5}, abs=1)
    assert homes(groups, rule, conversation=conversation) == found


@given(st.lists(st.integers(1, 100), min_size=2, max_size=4), st.integers(1, 100))
def test_raising_a_weight_moves_keys_into_its_group_only(weights: list[int], more: int) -> None:
    groups = groups_of(**{f"g{number}": weight for number, weight in enumerate(weights)})
    routing = Routing("least_outstanding")

    def home(key: int) -> str:
        return routing.choose(groups, 1.0, Affinity(key, True))[0].name.partition("-")[0]

    before = [home(key) for key in KEYS[:300]]
    groups[0].weight += more
    for was, now in zip(before, [home(key) for key in KEYS[:300]], strict=True):
        assert now in (was, "g0")


def test_a_canary_that_grows_from_5_to_10_of_100_loses_nobody() -> None:
    before, after = homes(groups_of(stable=95, canary=5)), homes(groups_of(stable=90, canary=10))
    assert not [1 for was, now in zip(before, after, strict=True) if was == "canary" and now != "canary"]
    assert shares(after) == pytest.approx({"stable": 90, "canary": 10}, abs=1)


def test_where_a_key_lives_does_not_tell_its_replica() -> None:
    groups = groups_of(stable=50, canary=50)
    routing = Routing("prefix")
    found = Counter(routing.choose(groups, 1.0, Affinity(key, True))[0].name for key in KEYS)
    alone = Counter(routing.choose(groups[:1], 1.0, Affinity(key, True))[0].name for key in KEYS)
    for name, count in alone.items():
        assert found[name] == pytest.approx(count / 2, rel=0.1)


def test_weight_0_gets_nothing_unless_nobody_else_can_serve() -> None:
    groups = groups_of(stable=1, idle=0)
    assert set(homes(groups)) == {"stable"}
    for replica in groups[0].replicas:
        replica.ready = False
    assert set(homes(groups)) == {"idle"}


def test_the_share_of_a_group_that_is_down_goes_to_the_others_by_their_weights() -> None:
    groups = groups_of(stable=60, next=30, canary=10)
    before = homes(groups)
    for replica in groups[0].replicas:
        replica.ready = False
    after = homes(groups)
    assert shares(after) == pytest.approx({"next": 75, "canary": 25}, abs=1.5)
    assert all(now == was for was, now in zip(before, after, strict=True) if was != "stable")


def test_a_group_whose_breakers_are_open_is_passed_over_until_no_other_can_serve() -> None:
    groups = groups_of(stable=50, canary=50)
    for replica in groups[1].replicas:
        replica.breaker = open_breaker()
    assert set(homes(groups)) == {"stable"}
    for replica in groups[0].replicas:
        replica.ready = False
    assert set(homes(groups)) == {"canary"}
    for replica in groups[1].replicas:
        replica.draining = True
    with pytest.raises(EngineUnavailable):
        homes(groups)


def test_a_retry_leaves_a_group_of_one_for_another() -> None:
    groups = groups_of(stable=50, canary=50)
    only = groups[1].replicas[0]
    groups[1] = Group([only], "canary", 50)
    routing = Routing("prefix")
    assert all(routing.choose(groups, 1.0, Affinity(key, True), avoid=only)[0] is not only for key in KEYS[:100])


def test_choosing_a_group_does_not_disturb_turns_within_it() -> None:
    groups = [Group([Candidate(f"a-{n}") for n in range(34)], "a", 1), Group([Candidate("b-0")], "b", 0)]
    routing = Routing("round_robin")
    found = Counter(routing.choose(groups, 1.0, Affinity(key, True))[0].name for key in KEYS[:68])
    assert set(found.values()) == {2}
    assert len(found) == 34
