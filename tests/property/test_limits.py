"""No minute ever has more than the limit, none less than it could; and the script decides as the Python does."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.policy.accounts import SPAN
from forebay.policy.auth import KeyLimits, Principal
from forebay.policy.limits import Defaults, LimitLease, Limits
from forebay.refusals import InsufficientQuota, RateLimited
from forebay.store.limits_script import GATEWAYS, SCRIPT, SETTLED
from forebay.store.shared_lease import keys_of
from tests.servers import ValkeyServer

WINDOW_MS = 60_000
pauses = st.one_of(st.integers(0, 400), st.integers(0, 20_000), st.integers(59_000, 200_000))


def asked(limits: Limits, who: Principal, tokens: int, now_ms: int) -> LimitLease | RateLimited | None:
    try:
        return limits.acquire(who, "", tokens, now_ms / 1000)
    except RateLimited as refusal:
        return refusal


@given(st.integers(1, 12), st.lists(pauses, max_size=150))
def test_no_sixty_seconds_ever_have_more_requests_than_the_limit(most: int, steps: list[int]) -> None:
    limits, who, now_ms = Limits(Defaults()), Principal("t", "k", limits=KeyLimits(most)), 0
    passed: list[int] = []
    for step in steps:
        now_ms += step
        decided = asked(limits, who, 0, now_ms)
        if isinstance(decided, RateLimited):
            recent = [at for at in passed if at > now_ms - WINDOW_MS - 500]
            assert len(recent) >= most, "refused, though there was room but for the half second of grain"
            assert decided.retry_after_s is not None
            assert 0 < decided.retry_after_s <= 60.5
        else:
            passed.append(now_ms)
            assert len([at for at in passed if at > now_ms - WINDOW_MS]) <= most


@given(st.integers(50, 500), st.lists(st.tuples(pauses, st.integers(0, 100), st.integers(0, 100)), max_size=100))
def test_no_sixty_seconds_ever_have_more_tokens_than_the_limit(most: int, steps: list[tuple[int, int, int]]) -> None:
    """As long as no request needs more than it said; what it did not need is there for others at once."""
    limits, who, now_ms = Limits(Defaults()), Principal("t", "k", limits=KeyLimits(None, most)), 0
    passed: list[tuple[int, int]] = []
    for step, wanted, unneeded in steps:
        now_ms += step
        try:
            lease = limits.acquire(who, "", wanted, now_ms / 1000)
        except RateLimited:
            assert sum(n for at, n in passed if at > now_ms - WINDOW_MS - 500) + min(wanted, most) > most
        else:
            assert lease is not None
            lease.spent = max(lease.tokens - unneeded, 0)
            lease.release("answered", now_ms / 1000)
            passed.append((now_ms, lease.spent))
            assert sum(n for at, n in passed if at > now_ms - WINDOW_MS) <= most


@given(st.integers(1, 30))
def test_a_caller_that_takes_all_he_can_gets_all_but_two_percent(most: int) -> None:
    limits, who, passed = Limits(Defaults()), Principal("t", "k", limits=KeyLimits(most)), 0
    for tick in range(10 * 60 * 4):
        try:
            limits.acquire(who, "", 0, tick / 4 + 0.1)
        except RateLimited:
            continue
        passed += 1
    assert passed >= most * 10 * 0.98


# The script

amounts = st.one_of(st.none(), st.integers(1, 40))
limited = st.builds(KeyLimits, amounts, amounts, st.one_of(st.none(), st.integers(1, 4)), amounts, amounts)


@dataclass(frozen=True)
class Step:
    """A request by one of two keys of a tenant, and how and when (in requests from now) it ends."""

    pause_ms: int
    key: int
    tokens: int
    spent: int | None
    outcome: str
    after: int
    next_day: bool


steps = st.lists(
    st.builds(
        Step,
        pauses,
        st.integers(0, 1),
        st.integers(0, 60),
        st.one_of(st.none(), st.just(0), st.integers(0, 90)),
        st.sampled_from(("answered", "failed", "cancelled", "refused")),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=40,
)


@dataclass
class Shared:
    """The script, called as one gateway does, at given times."""

    server: ValkeyServer
    sha: str
    number: int = 0
    due: dict[int, list[tuple[LimitLease, Step, int]]] = field(default_factory=dict)

    def take(self, lease_of: Limits, who: Principal, tokens: int, now_ms: int) -> list[int]:
        binding = lease_of._of_keys[who.key_id]
        keys: list[object] = [GATEWAYS, SETTLED]
        arguments: list[object] = ["take", now_ms, "g", min(tokens, binding.ceiling), *lease_of.date]
        for account in binding.accounts:
            keys += keys_of(account)
            one = account.limits
            most = (one.requests_per_minute, one.tokens_per_minute, one.concurrency)
            arguments += [-1 if n is None else n for n in (*most, one.tokens_per_day, one.tokens_per_month)]
        return self.server.client.evalsha(self.sha, len(keys), *keys, *arguments)  # type: ignore[no-any-return, arg-type]

    def settle(self, lease: LimitLease, outcome: str, now_ms: int, index: int) -> None:
        """To be called after the lease was released, so that it is told what still runs."""
        self.number += 1
        requests, tokens = lease.owed(outcome)  # type: ignore[arg-type]
        keys: list[object] = [GATEWAYS, SETTLED]
        arguments: list[object] = ["settle", now_ms, "g", self.number]
        for account in lease.binding.accounts:
            keys += keys_of(account)
            arguments += [0 if tokens > 0 else index, requests, tokens, *lease.date]
            arguments += [int(account.budgeted), account.running if account.limits.concurrency else -1]
        for _ in range(2):  # the same number again changes nothing
            self.server.client.evalsha(self.sha, len(keys), *keys, *arguments)  # type: ignore[arg-type]


@settings(max_examples=300)
@given(limited, limited, limited, steps)
def test_the_script_decides_as_the_python_does(
    valkey_server: ValkeyServer, of_key: KeyLimits, of_tenant: KeyLimits, of_all: KeyLimits, sequence: list[Step]
) -> None:
    valkey_server.client.flushall()
    limits, shared = (
        Limits(Defaults(everybody=of_all)),
        Shared(valkey_server, str(valkey_server.client.script_load(SCRIPT))),
    )
    callers = [Principal("t", f"k{n}", limits=of_key, tenant_limits=of_tenant) for n in range(2)]
    now_ms, day = 1_700_000_000_000, 20261101
    limits.turn(day, 202611)
    for number, step in enumerate(sequence):
        now_ms += step.pause_ms
        if step.next_day and step.pause_ms > 1000:
            day += 1
            limits.turn(day, 202611 + (day > 20261104))
        for lease, ending, index in shared.due.pop(number, ()):
            lease.spent = ending.spent
            lease.release(ending.outcome, now_ms / 1000)  # type: ignore[arg-type]
            shared.settle(lease, ending.outcome, now_ms, index)
        who = callers[step.key]
        decided = asked(limits, who, step.tokens, now_ms)
        if decided is None:
            return  # nothing is limited
        answer = shared.take(limits, who, step.tokens, now_ms)
        if isinstance(decided, LimitLease):
            assert answer[0] == 1, f"{number}: {answer}"
            assert answer[1] == decided.index
            assert answer[2:] == [n for one in decided.binding.accounts for n in (one.requests, one.tokens)]
            shared.due.setdefault(number + 1 + step.after, []).append((decided, step, decided.index))
        else:
            assert answer[0] == 0, f"{number}: {decided}"
            assert isinstance(decided, InsufficientQuota) == (answer[2] in (3, 4))
            if not isinstance(decided, InsufficientQuota):
                assert decided.retry_after_s == pytest.approx(answer[3] / 1000, abs=0.001)


def test_what_is_kept_of_an_account_is_bounded(valkey_server: ValkeyServer) -> None:
    valkey_server.client.flushall()
    limits, shared, who = (
        Limits(Defaults()),
        Shared(valkey_server, str(valkey_server.client.script_load(SCRIPT))),
        Principal("t", "k", limits=KeyLimits(10**9)),
    )
    for tick in range(400):
        limits.acquire(who, "", 0, tick * 0.7)
        shared.take(limits, who, 0, tick * 700)
    (account,) = limits._of_keys["k"].accounts
    assert valkey_server.client.hlen(keys_of(account)[0]) <= 2 * (SPAN + 1) + 4
    assert 0 < valkey_server.client.ttl(keys_of(account)[0]) <= 130  # type: ignore[operator]
