"""One request's share in counts that gateways share: taken here, sure once the script has spoken, settled in both."""

from typing import TYPE_CHECKING

from forebay.policy.accounts import UNBOUNDED, Account, Kind
from forebay.policy.limits import Binding, LimitLease, refuse, requests_lines, tokens_lines
from forebay.policy.verdict import Outcome
from forebay.refusals import Refusal
from forebay.store.pending_lease import PendingLease
from forebay.wire.headers import go_duration

if TYPE_CHECKING:
    from forebay.store.shared_limits import SharedLimits

PREFIX = "forebay:{limits}:"  # one hash slot, so that one script may touch all of them
GRANTED, MENDED = 1, 2  # what the script's answer to a question begins with, besides 0
_KINDS: tuple[Kind, ...] = ("requests", "tokens", "day", "month", "concurrency")


class SharedLease(PendingLease):
    """A lease whose counts are shared. `decided` is set once the script has spoken, or cannot be asked."""

    __slots__ = ("at", "shared")

    def __init__(self, shared: "SharedLimits", local: LimitLease) -> None:
        super().__init__(local)
        self.shared = shared
        self.at = 0  # the half second, by the server's clock

    def release(self, outcome: Outcome, now: float) -> None:
        super().release(outcome, now)
        if self.taken and self.at:
            self.settle(outcome)

    def settle(self, outcome: Outcome) -> None:
        """Correct the shared counts."""
        requests, tokens = self.owed(outcome)
        for account in self.binding.accounts:
            if tokens > 0:
                self.shared.owe(account, 0, 0, tokens, self)
            else:
                self.shared.owe(account, self.at, requests, tokens, self)


def keys_of(account: Account) -> tuple[str, str]:
    key = PREFIX + account.name
    return key, key + ":runs"


def name_of(key: str) -> str:
    """The account whose counts are under a key."""
    return key.removeprefix(PREFIX)


def limits_of(lease: LimitLease) -> tuple[list[str], list[int]]:
    """The keys and the limits of a lease's accounts, as the script takes them."""
    keys: list[str] = []
    numbers: list[int] = []
    for account in lease.binding.accounts:
        keys += keys_of(account)
        limits = account.limits
        numbers += [
            -1 if limit is None else limit
            for limit in (
                limits.requests_per_minute,
                limits.tokens_per_minute,
                limits.concurrency,
                limits.tokens_per_day,
                limits.tokens_per_month,
            )
        ]
    return keys, numbers


def refusal_of(binding: Binding, answer: list[int]) -> Refusal:
    """What the script said no to."""
    _, number, kind, wait_ms, reset_ms, *counts = answer
    lines = shared_lines(binding, counts, go_duration(reset_ms / 1000))
    used = counts[2 * number - 3 + kind] if kind <= 2 else None  # of requests and tokens we are told
    return refuse(binding.accounts[number - 1], _KINDS[kind - 1], wait_ms / 1000, lines, used)


def shared_lines(binding: Binding, counts: list[int], reset: bytes) -> bytes:
    """As `Binding.lines`, of the shared counts: each account's requests and tokens."""
    used = list(zip(binding.accounts, counts[::2], counts[1::2], strict=True))
    requests = [(one.most_requests - n, one.most_requests) for one, n, _ in used if one.most_requests < UNBOUNDED]
    tokens = [(one.most_tokens - n, one.most_tokens) for one, _, n in used if one.most_tokens < UNBOUNDED]
    lines = b""
    if requests:
        left, most = min(requests)
        lines = requests_lines(most, left, reset)
    if tokens:
        left, most = min(tokens)
        lines += tokens_lines(most, left, reset)
    return lines
