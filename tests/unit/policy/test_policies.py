"""Each policy's own story. (Their order is the pipeline's, and told in tests/gateway.)"""

from dataclasses import dataclass

import pytest

from forebay.failures import Failure
from forebay.policy.admission import Admission
from forebay.policy.auth import ANONYMOUS, Authenticator
from forebay.policy.ownership import Ownership
from forebay.policy.retry import may_retry
from forebay.policy.routing import LeastOutstanding
from forebay.policy.verdict import Lease
from forebay.refusals import EngineUnavailable, Overloaded, Unauthorized


def test_a_lease_is_given_back_once_with_its_outcome() -> None:
    given: list[object] = []
    lease = Lease(lambda outcome, now: given.append((outcome, now)))
    lease.release("answered", 3.0)
    assert given == [("answered", 3.0)]
    with pytest.raises(RuntimeError):
        lease.release("answered", 4.0)


def test_keys_make_principals_that_do_not_reveal_them() -> None:
    auth = Authenticator(["sk-one", "sk-two"])
    one = auth.authenticate(b"Bearer sk-one", None)
    assert one == auth.authenticate(None, b"sk-one")
    assert one != auth.authenticate(b"bearer sk-two", None)
    assert "sk-one" not in repr((auth, one, vars(auth)))


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (None, None),
        (b"Bearer sk-three", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Bearer  sk-one", None),
        (b"Basic sk-one", None),
        (b"Bearer wrong", b"sk-one"),
        (None, b""),
        (None, b"sk-\x00one"),
        (None, b"k" * 513),
        (None, "ключ".encode()),
    ],
)
def test_anything_else_is_refused(authorization: bytes | None, api_key: bytes | None) -> None:
    with pytest.raises(Unauthorized) as refused:
        Authenticator(["sk-one"]).authenticate(authorization, api_key)
    assert "sk-" not in refused.value.message


def test_without_keys_everybody_is_anonymous() -> None:
    assert Authenticator([]).authenticate(b"Bearer anything", None) is ANONYMOUS


def test_admission_never_lets_more_in_than_its_limit() -> None:
    admission = Admission(2)
    first, second = admission.acquire(), admission.acquire()
    with pytest.raises(Overloaded):
        admission.acquire()
    first.release("cancelled", 0.0)
    third = admission.acquire()
    second.release("answered", 0.0)
    third.release("failed", 0.0)
    assert repr(admission) == "<Admission 0/2>"


@dataclass(eq=False)
class Candidate:
    ready: bool = True
    draining: bool = False
    in_flight: int = 0


def test_the_least_busy_ready_replica_is_chosen_and_ties_are_shared() -> None:
    busy, free, down = Candidate(in_flight=3), Candidate(in_flight=1), Candidate(ready=False)
    routing = LeastOutstanding()
    assert all(routing.choose([busy, free, down]) is free for _ in range(5))
    equal = [Candidate(), Candidate(), Candidate()]
    chosen = [routing.choose(equal) for _ in range(6)]
    assert all(chosen.count(one) == 2 for one in equal)


def test_the_replica_to_avoid_is_chosen_only_where_no_other_is_ready() -> None:
    failed, other = Candidate(), Candidate(in_flight=9)
    routing = LeastOutstanding()
    assert routing.choose([failed, other], avoid=failed) is other
    other.draining = True
    assert routing.choose([failed, other], avoid=failed) is failed
    failed.ready = False
    with pytest.raises(EngineUnavailable):
        routing.choose([failed, other], avoid=failed)


@pytest.mark.parametrize(
    ("failure", "attempts", "refreshed", "again"),
    [
        (Failure("connect", ""), 1, False, True),
        (Failure("connect", ""), 2, False, False),
        (Failure("closed", "", before_answer=True, reused=True), 1, False, True),
        (Failure("closed", "", before_answer=True, reused=True), 1, True, False),
        (Failure("closed", "", before_answer=True, reused=False), 1, False, False),
        (Failure("closed", "", before_answer=False, reused=True), 1, False, False),
        (Failure("timeout", "", before_answer=True, reused=True), 1, False, False),
        (Failure("invalid", ""), 1, False, False),
    ],
)
def test_only_what_no_engine_can_have_begun_is_sent_again(
    failure: Failure, attempts: int, refreshed: bool, again: bool
) -> None:
    assert may_retry(failure, attempts, 2, refreshed=refreshed) is again


def test_a_response_belongs_to_its_tenant_and_old_ones_are_forgotten() -> None:
    ownership = Ownership(limit=2)
    for number in range(3):
        ownership.record(f"resp_{number}", "a", "replica-1")
    assert ownership.replica_of("resp_0", "a") is None
    assert ownership.replica_of("resp_2", "a") == "replica-1"
    assert ownership.replica_of("resp_2", "b") is None
