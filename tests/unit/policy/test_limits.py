import pytest

from forebay.policy.accounts import SPAN, Account
from forebay.policy.auth import ANONYMOUS, KeyLimits, Principal
from forebay.policy.limits import Defaults, LimitLease, Limits, merged, network_of
from forebay.refusals import InsufficientQuota, RateLimited, Refusal, TokensLimited

DAY, MONTH = 20261121, 202611


def principal(key_id: str = "k", tenant: str = "t", of_tenant: KeyLimits | None = None, **limits: int) -> Principal:
    return Principal(tenant, key_id, limits=KeyLimits(**limits), tenant_limits=of_tenant or KeyLimits())


def limits(**defaults: KeyLimits) -> Limits:
    made = Limits(Defaults(**defaults))
    made.turn(DAY, MONTH)
    return made


def take(one: Limits, who: Principal, tokens: int = 0, now: float = 0.0, address: str = "1.2.3.4") -> LimitLease:
    lease = one.acquire(who, address, tokens, now)
    assert lease is not None
    return lease


def refused(one: Limits, who: Principal, tokens: int = 0, now: float = 0.0, address: str = "1.2.3.4") -> Refusal:
    with pytest.raises(RateLimited) as caught:
        one.acquire(who, address, tokens, now)
    return caught.value


def header(lines: bytes | tuple[tuple[bytes, bytes], ...], name: bytes) -> bytes:
    pairs = [line.split(b": ") for line in lines.splitlines()] if isinstance(lines, bytes) else lines
    (value,) = [value for key, value in pairs if key == name]
    return value


def test_who_has_no_limits_is_not_counted() -> None:
    assert limits().acquire(principal(), "1.2.3.4", 5, 0.0) is None


def test_the_limit_holds_in_any_minute_and_what_was_taken_comes_back_when_it_is_a_minute_old() -> None:
    one, who = limits(), principal(requests_per_minute=3)
    for now in (0.0, 10.0, 20.0):
        take(one, who, now=now)
    told = refused(one, who, now=20.0)
    assert told.retry_after_s == 40.5
    refused(one, who, now=60.4)
    take(one, who, now=60.5)
    refused(one, who, now=70.4)
    take(one, who, now=70.5)


def test_a_refused_request_takes_nothing_from_any_of_its_accounts() -> None:
    one = limits(everybody=KeyLimits(requests_per_minute=5))
    who = principal(requests_per_minute=1, of_tenant=KeyLimits(requests_per_minute=3))
    take(one, who)
    for _ in range(10):
        refused(one, who)
    sister = principal("sister", of_tenant=KeyLimits(requests_per_minute=3))
    take(one, sister)
    take(one, sister)
    assert "this tenant" in refused(one, sister).message
    take(one, principal("other", "other"))
    take(one, principal("other", "other"))
    assert "all callers" in refused(one, principal("third", "third")).message


def test_tokens_are_reserved_by_estimate_and_settled_with_what_was_needed() -> None:
    one, who = limits(), principal(tokens_per_minute=100)
    lease = take(one, who, 80)
    assert isinstance(refused(one, who, 30), TokensLimited)
    lease.spent = 20
    lease.release("answered", 1.0)
    assert header(take(one, who, 80, 1.0).lines, b"x-ratelimit-remaining-tokens") == b"0"


def test_tokens_beyond_the_estimate_are_counted_when_they_are_known() -> None:
    one, who = limits(), principal(tokens_per_minute=100)
    lease = take(one, who, 10)
    lease.spent = 150
    lease.release("answered", 30.0)
    refused(one, who, 1, 60.5)  # the first ten have gone, the others are half a minute old
    take(one, who, 1, 90.5)


def test_an_estimate_beyond_the_limit_is_cut_to_it_so_that_the_request_can_pass() -> None:
    one, who = limits(), principal(tokens_per_minute=100)
    assert take(one, who, 1_000_000).tokens == 100


def test_what_takes_no_tokens_passes_though_there_are_none_left() -> None:
    one, who = limits(), principal(tokens_per_minute=100)
    take(one, who, 100)
    take(one, who, 0)


def test_what_failed_and_generated_nothing_gets_everything_back() -> None:
    one, who = limits(), principal(requests_per_minute=1, tokens_per_minute=100, tokens_per_day=100, concurrency=1)
    for _ in range(5):
        lease = take(one, who, 100)
        lease.spent = 0
        lease.release("failed", 0.0)


def test_a_wrong_request_is_counted_but_its_tokens_are_not() -> None:
    one, who = limits(), principal(requests_per_minute=2, tokens_per_minute=100)
    lease = take(one, who, 100)
    lease.spent = 0
    lease.release("refused", 0.0)
    take(one, who, 100)
    assert not isinstance(refused(one, who, 0), TokensLimited)


def test_a_lease_is_released_once() -> None:
    lease = take(limits(), principal(concurrency=1))
    lease.release("answered", 0.0)
    with pytest.raises(RuntimeError):
        lease.release("answered", 0.0)


def test_no_more_run_at_once_than_the_limit() -> None:
    one, who = limits(), principal(concurrency=2)
    first = take(one, who)
    take(one, who)
    assert refused(one, who).retry_after_s == 1
    first.release("cancelled", 3.0)
    take(one, who)


def test_a_budget_is_refused_for_good_until_its_day_or_month_is_over() -> None:
    one, who = limits(), principal(tokens_per_day=100, tokens_per_month=150)
    take(one, who, 100)
    told = refused(one, who, 1, 100_000.0)
    assert isinstance(told, InsufficientQuota)
    assert told.should_retry is False
    one.turn(DAY + 1, MONTH)
    assert "per month" in refused(one, who, 51).message
    take(one, who, 50)
    one.turn(20261201, 202612)
    take(one, who, 100)


def test_a_clock_that_is_put_back_over_midnight_begins_no_budget_anew() -> None:
    """B12: neither on the way back nor when midnight comes again."""
    one, who = limits(), principal(tokens_per_day=100)
    one.turn(20261231, 202612)
    take(one, who, 90)
    one.turn(20270101, 202701)
    take(one, who, 100)
    for day, month in ((20261231, 202612), (20270101, 202701), (20261231, 202612)):
        one.turn(day, month)
        refused(one, who, 1)
    one.turn(20270102, 202701)
    take(one, who, 100)


def test_a_clock_that_was_years_ahead_leaves_nobody_refused_for_years() -> None:
    """B12: nor does it give a budget anew when it is put right."""
    one, who = limits(), principal(tokens_per_day=100)
    one.turn(20261130, 202611)
    take(one, who, 100)
    one.turn(20301130, 203011)
    lease = take(one, who, 80)
    one.turn(20261130, 202611)
    refused(one, who, 30)
    lease.spent = 80
    lease.release("answered", 1.0)
    one.turn(20261201, 202612)
    take(one, who, 100)


def test_what_a_request_of_yesterday_gives_back_is_not_todays() -> None:
    one, who = limits(), principal(tokens_per_day=100)
    lease = take(one, who, 100)
    one.turn(DAY + 1, MONTH)
    take(one, who, 60)
    lease.spent = 0
    lease.release("cancelled", 1.0)
    refused(one, who, 41)


def test_callers_without_a_key_are_told_apart_by_address() -> None:
    one = limits(address=KeyLimits(requests_per_minute=1))
    take(one, ANONYMOUS, address="1.1.1.1")
    refused(one, ANONYMOUS, address="1.1.1.1")
    take(one, ANONYMOUS, address="2001:db8::1")
    refused(one, ANONYMOUS, address="2001:db8::2")
    take(one, ANONYMOUS, address="2001:db8:0:1::2")
    assert one.acquire(principal(), "1.1.1.1", 0, 0.0) is None
    assert network_of("fe80::1%eth0") == "fe80::/64"


def test_a_keys_own_limits_go_before_the_defaults_one_by_one() -> None:
    own = KeyLimits(requests_per_minute=5)
    assert merged(own, KeyLimits(7, 8)) == KeyLimits(5, 8)
    assert merged(KeyLimits(), KeyLimits(7)) == KeyLimits(7)


def test_changed_limits_hold_at_once_and_what_was_counted_stays() -> None:
    one = limits()
    take(one, principal(requests_per_minute=1))
    refused(one, principal(requests_per_minute=1))
    take(one, principal(requests_per_minute=2))
    refused(one, principal(requests_per_minute=2))


def test_the_headers_tell_of_the_limit_nearest_to_its_end() -> None:
    one, who = limits(), principal(requests_per_minute=100, of_tenant=KeyLimits(5, tokens_per_minute=50))
    lines = take(one, who, 7).lines
    assert header(lines, b"x-ratelimit-limit-requests") == b"5"
    assert header(lines, b"x-ratelimit-remaining-requests") == b"4"
    assert header(lines, b"x-ratelimit-reset-requests") == b"1m0s"
    assert header(lines, b"x-ratelimit-limit-tokens") == b"50"
    assert header(lines, b"x-ratelimit-remaining-tokens") == b"43"
    told = refused(one, who, 44, 2.0)
    assert header(told.headers, b"x-ratelimit-remaining-tokens") == b"43"
    assert header(told.headers, b"x-ratelimit-reset-tokens") == b"58.5s"
    assert header(told.headers, b"cache-control") == b"no-store"


def test_each_of_several_gateways_enforces_its_share_and_lets_at_least_one_through() -> None:
    one, who = limits(), principal(requests_per_minute=10, tokens_per_minute=90)
    one.share = 3
    assert take(one, who, 1000).tokens == 30
    refused(one, who, 10)
    small = principal("small", requests_per_minute=1)
    take(one, small)
    refused(one, small)


def test_a_limit_of_nothing_lets_nothing_through() -> None:
    refused(limits(), principal(requests_per_minute=0))
    refused(limits(), principal(tokens_per_minute=0), 1)
    refused(limits(), principal(concurrency=0))


def test_what_is_idle_is_dropped_and_what_counts_is_not() -> None:
    one = limits(key=KeyLimits(requests_per_minute=1))
    for number in range(100):
        take(one, principal(f"k{number}")).release("answered", 0.0)
    running = take(one, principal("running"))
    one.sweep(60.0)
    assert len(one) == 101
    one.sweep(61.0)
    assert len(one) == 1
    running.release("answered", 61.0)
    one.sweep(61.0)
    assert len(one) == 0


def test_accounts_are_bounded_where_everybody_is_new() -> None:
    one = Limits(Defaults(address=KeyLimits(requests_per_minute=1)), most_bindings=1000)
    for number in range(5000):
        take(one, ANONYMOUS, address=f"10.0.{number // 256}.{number % 256}").release("answered", 0.0)
        if number % 500 == 0:
            one.sweep(1.0)
    one.sweep(1.0)
    assert len(one) == 1000


def test_a_budget_outlives_its_keys_idleness_until_the_day_is_over() -> None:
    one, who = limits(), principal(tokens_per_day=10)
    take(one, who, 10).release("answered", 0.0)
    one.sweep(1000.0)
    refused(one, who, 1, 1000.0)
    one.sweep(2000.0)
    one.turn(DAY + 1, MONTH)
    assert len(one) == 0


def test_half_seconds_are_forgotten_only_when_all_of_them_is_a_minute_old() -> None:
    account = Account("a", KeyLimits(1))
    account.take(10, 5)
    account.slide(10 + SPAN)
    assert (account.requests, account.tokens) == (1, 5)
    account.slide(10 + SPAN + 1)
    assert (account.requests, account.tokens) == (0, 0)


def test_a_months_budget_outlasts_the_nights_in_which_nobody_asks() -> None:
    one, who = limits(), principal(tokens_per_month=100)
    lease = take(one, who, 100)
    lease.spent = 100
    lease.release("answered", 0.0)
    one.sweep(200.0)
    one.turn(DAY + 1, MONTH)
    assert isinstance(refused(one, who, 1, now=200.0), InsufficientQuota)
    one.sweep(400.0)
    one.turn(20261201, 202612)
    assert len(one) == 0
    take(one, who, 100, now=400.0)


def test_what_was_used_before_counts_in_the_budgets_of_its_day_and_month_only() -> None:
    account = Account("key:k", KeyLimits(tokens_per_day=100))
    account.turn((DAY, MONTH))
    account.take(0, 10)
    account.used_before((DAY - 1, MONTH), 5, 50, late=False)
    assert (account.day_tokens, account.month_tokens) == (10, 60)
    account.used_before((DAY, MONTH), 5, 0, late=False)
    assert account.day_tokens == 15
    account.used_before((DAY, MONTH), 12, 70, late=True)
    assert (account.day_tokens, account.month_tokens) == (15, 70), "the larger one, where both may count the same"


def test_a_raised_limit_counts_at_once_for_a_gateway_that_decides_alone() -> None:
    account = Account("key:k", KeyLimits(requests_per_minute=4))
    account.see(4, 0, 0)
    assert account.exceeded_alone(0, 2, 1) == "requests"
    account.limit_to(KeyLimits(requests_per_minute=100))
    assert account.exceeded_alone(0, 2, 1) is None
