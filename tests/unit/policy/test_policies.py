"""Each policy's own story. (Their order is the pipeline's, and told in tests/gateway.)"""

import pytest

from forebay.failures import Failure
from forebay.policy.auth import ANONYMOUS, UNLIMITED, Authenticator, fixed_keys
from forebay.policy.ownership import Ownership
from forebay.policy.retry import MOST_TENANTS, RetryBudget, is_loss, is_stale_connection
from forebay.policy.verdict import Lease
from forebay.refusals import Unauthorized


def test_a_lease_is_given_back_once_with_its_outcome() -> None:
    given: list[object] = []
    lease = Lease(lambda held, outcome, now: given.append((held, outcome, now)), 3)
    lease.release("answered", 3.0)
    assert given == [(3, "answered", 3.0)]
    with pytest.raises(RuntimeError):
        lease.release("answered", 4.0)


def test_keys_make_principals_that_do_not_reveal_them() -> None:
    auth = Authenticator(fixed_keys(["sk-one", "sk-two"], [], {}, UNLIMITED))
    one = auth.authenticate(b"Bearer sk-one", None, 0.0)
    assert one == auth.authenticate(None, b"sk-one", 0.0)
    assert one != auth.authenticate(b"bearer sk-two", None, 0.0)
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
        Authenticator(fixed_keys(["sk-one"], [], {}, UNLIMITED)).authenticate(authorization, api_key, 0.0)
    assert "sk-" not in refused.value.message


def test_without_keys_everybody_is_anonymous() -> None:
    assert Authenticator({}, anonymous=ANONYMOUS).authenticate(b"Bearer anything", None, 0.0) is ANONYMOUS


@pytest.mark.parametrize(
    ("failure", "stale", "loss"),
    [
        (Failure("connect", ""), False, False),
        (Failure("closed", "", stale=True), True, True),
        (Failure("closed", ""), False, True),
        (Failure("stalled", ""), False, True),
        (Failure("timeout", ""), False, False),
        (Failure("invalid", ""), False, False),
    ],
)
def test_which_failures_say_that_the_engine_is_lost(failure: Failure, stale: bool, loss: bool) -> None:
    assert (is_stale_connection(failure), is_loss(failure)) == (stale, loss)


def test_retries_stay_a_share_of_requests() -> None:
    budget = RetryBudget()
    retries = 0
    for number in range(10_000):
        budget.asked("a")
        retries += budget.spend("a", 1.0 + number / 1000)
    assert 1900 < retries < 2100
    quiet = RetryBudget()
    assert [quiet.spend("a", 1.0) for _ in range(6)] == [True] * 5 + [False]
    assert not quiet.spend("a", 2.1)
    assert quiet.spend("a", 3.1)


def test_a_tenant_whose_requests_all_fail_leaves_the_others_their_retries() -> None:
    """E7. The control is what all have together, which it would use up alone."""
    budget, alone = RetryBudget(), RetryBudget()
    for _ in range(1000):
        budget.asked("failing")
        budget.asked("quiet")
        alone.asked("failing")
    spent = sum(budget.spend("failing", 1.0) for _ in range(1000))
    assert spent == 50 == sum(alone.spend("failing", 1.0) for _ in range(1000))
    for _ in range(10_000):
        budget.asked("failing")
        budget.spend("failing", 2.0)
    assert sum(budget.spend("quiet", 3.0) for _ in range(1000)) >= 45


def test_what_is_kept_of_tenants_retries_is_bounded() -> None:
    budget = RetryBudget()
    for number in range(MOST_TENANTS + 100):
        budget.asked(f"t{number}")
    assert f" {MOST_TENANTS} tenants" in repr(budget)


def test_a_response_belongs_to_its_tenant_and_old_ones_are_forgotten() -> None:
    ownership = Ownership(limit=2)
    for number in range(3):
        ownership.record(f"resp_{number}", "a", "replica-1")
    assert ownership.replica_of("resp_0", "a") is None
    assert ownership.replica_of("resp_2", "a") == "replica-1"
    assert ownership.replica_of("resp_2", "b") is None
