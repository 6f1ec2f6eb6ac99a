"""Which replicas serve a model, and when routing must look anew."""

import pytest

from forebay.refusals import EngineUnavailable, ModelNotFound
from forebay.replicas.pool import ReplicaPool
from forebay.replicas.replica import Replica
from forebay.upstream.pool import Address, UpstreamPool


def replica(name: str, *models: str, group: str = "default") -> Replica:
    upstream = UpstreamPool(Address(name), connect_timeout_s=1, idle_s=1, max_connections=1)
    return Replica(name, upstream, group=group, models={model: {"id": model} for model in models})


def test_lists_and_groups_stay_the_same_objects_until_members_change() -> None:
    pool = ReplicaPool([replica("a", "m"), replica("b", "m", "other"), replica("c")], {})
    serving, groups = pool.serving("m"), pool.groups("m")
    groups[0].turn = 1
    ring = groups[0].ring
    pool.refresh()
    assert pool.serving("m") is serving
    assert pool.groups("m")[0] is groups[0]
    assert (pool.groups("m")[0].ring is ring, pool.groups("m")[0].turn) == (True, 1)
    pool.replicas[2].models = {"m": {"id": "m"}}
    pool.refresh()
    assert pool.serving("m") == pool.groups("m")[0].replicas == pool.replicas
    assert pool.groups("m")[0].ring is not ring
    assert pool.groups("other")[0].replicas == [pool.replicas[1]]
    assert pool.groups("none") == ()


def test_groups_are_a_models_replicas_by_version_with_their_weights() -> None:
    pool = ReplicaPool([replica("a", "m"), replica("b", "m", group="canary"), replica("c", "m")], {}, {"canary": 5})
    stable, canary = pool.groups("m")
    assert (stable.name, stable.weight, [r.name for r in stable.replicas]) == ("default", 100, ["a", "c"])
    assert (canary.name, canary.weight, [r.name for r in canary.replicas]) == ("canary", 5, ["b"])
    pool.weights["canary"] = 10
    pool.refresh()
    assert pool.groups("m")[1] is canary
    assert canary.weight == 10


def test_load_is_given_back_with_the_lease_however_it_ends() -> None:
    one = replica("a", "m")
    leases = [one.acquire(0.0, cost) for cost in (100, 20, 3)]
    assert (one.in_flight, one.load) == (3, 123)
    for lease, outcome, left in zip(leases, ("answered", "failed", "cancelled"), (23, 3, 0), strict=True):
        lease.release(outcome, 1.0)  # type: ignore[arg-type]
        assert one.load == left
    with pytest.raises(RuntimeError):
        leases[0].release("answered", 2.0)
    assert (one.in_flight, one.load) == (0, 0)


def test_a_model_on_standby_is_known_by_its_names_without_an_engine() -> None:
    pool = ReplicaPool([], {"alias": "m", "any": "*"}, standby=("m", "m"))
    assert [pool.resolve(name) for name in ("m", "alias", "any", None)] == ["m"] * 4
    assert [card["id"] for card in pool.model_cards()] == ["m", "alias", "any"]
    with pytest.raises(EngineUnavailable):
        pool.resolve("other")
    pool.add(replica("a", "n"))
    assert (pool.resolve("m"), pool.resolve("n")) == ("m", "n")
    for name in ("other", "*", "any", None):
        with pytest.raises(ModelNotFound):
            pool.resolve(name)
    pool.add(replica("b", "m"))
    assert [card["id"] for card in pool.model_cards()] == ["n", "m", "alias"]
