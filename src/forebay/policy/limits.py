"""May they, now? Requests and tokens a minute, requests at once, tokens a day and a month.

A request is counted in each account that it belongs to: its key's, its tenant's, its address's where it came without a
key, and everybody's; in all of them or, where it does not fit into one, in none. Its tokens are an estimate until it is
over, when `LimitLease.spent` says how many there were. What failed and generated nothing gets all of it back. An
estimate beyond a limit is cut to that limit: the caller may ask for more than comes, and could never pass else.

Limits are a key's own where it has them, and the settings' defaults where not. Accounts are kept while they count
anything; what is idle is dropped (`sweep`), and the oldest go where they are too many.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from ipaddress import IPv6Address, ip_network

from forebay.policy.accounts import BUCKETS_PER_S, SPAN, UNBOUNDED, Account, Kind
from forebay.policy.auth import ANONYMOUS, UNLIMITED, KeyLimits, Principal
from forebay.policy.verdict import Lease, Outcome
from forebay.refusals import InsufficientQuota, RateLimited, Refusal, TokensLimited
from forebay.wire.headers import go_duration

MOST_BINDINGS = 200_000
_SWEPT_AT_ONCE = 500
_BUSY_S = 1.0
_RESET = b"1m0s"
_WHAT = {
    "requests": "{most} requests per minute",
    "tokens": "{most} tokens per minute",
    "concurrency": "{most} requests at once",
    "day": "{most} tokens per day (UTC)",
    "month": "{most} tokens per month (UTC)",
}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What keys, tenants and addresses may use that have no limits of their own, and everybody together."""

    key: KeyLimits = UNLIMITED
    tenant: KeyLimits = UNLIMITED
    address: KeyLimits = UNLIMITED
    everybody: KeyLimits = UNLIMITED


class Binding:
    """The accounts that one principal's requests are counted in, and how they are told of."""

    __slots__ = ("_form", "accounts", "ceiling", "principal", "requests_of", "tokens_of", "used_at")

    def __init__(self, principal: Principal, accounts: tuple[Account, ...]) -> None:
        self.principal = principal
        self.accounts = accounts
        self.ceiling = min((account.ceiling for account in accounts), default=UNBOUNDED)
        self.requests_of = tuple(account for account in accounts if account.most_requests < UNBOUNDED)
        self.tokens_of = tuple(account for account in accounts if account.most_tokens < UNBOUNDED)
        self.used_at = 0
        self._form = b""
        if len(accounts) == 1 and self.requests_of and self.tokens_of:  # the usual case: only two numbers change
            lines = self.lines(_RESET).splitlines(keepends=True)
            for number in (1, 4):
                lines[number] = lines[number].partition(b" ")[0] + b" %d\r\n"
            self._form = b"".join(lines)

    def granted_lines(self) -> bytes:
        """The headers for a request that was just counted: what it took leaves after a full minute."""
        if self._form:
            one = self.accounts[0]
            requests, tokens = one.most_requests - one.requests, one.most_tokens - one.tokens
            return self._form % (requests, tokens if tokens > 0 else 0)
        return self.lines(_RESET)

    def lines(self, reset: bytes) -> bytes:
        """OpenAI's headers, of the limits nearest to their end."""
        lines = b""
        if accounts := self.requests_of:
            one = accounts[0] if len(accounts) == 1 else min(accounts, key=_requests_left)
            lines = requests_lines(one.most_requests, one.most_requests - one.requests, reset)
        if accounts := self.tokens_of:
            one = accounts[0] if len(accounts) == 1 else min(accounts, key=_tokens_left)
            lines += tokens_lines(one.most_tokens, one.most_tokens - one.tokens, reset)
        return lines


_ANONYMOUS = ANONYMOUS.key_id
_NOBODY = Principal(tenant="", key_id="")


class LimitLease(Lease):
    """What one request has taken; `spent` are the tokens it needed; None where nobody told: the estimate stands."""

    __slots__ = ("binding", "date", "decided", "index", "lines", "owner", "spent", "tokens")

    def __init__(self, owner: "Limits", binding: Binding, index: int, tokens: int, lines: bytes) -> None:
        self.owner: Limits | None = owner
        self.binding = binding
        self.index = index
        self.tokens = tokens
        self.lines = lines
        self.date = owner.date
        self.spent: int | None = None
        self.decided: Awaitable[None] | None = None  # what has to be waited for

    def release(self, outcome: Outcome, now: float) -> None:
        """Settle. Raises RuntimeError the second time."""
        owner, self.owner = self.owner, None
        if owner is None:
            raise RuntimeError("a lease was released twice")
        requests, tokens = self.owed(outcome)
        for account in self.binding.accounts:
            account.running -= 1
            if tokens > 0:
                account.charge(int(now * BUCKETS_PER_S), tokens, self.date)
            elif tokens or requests:
                account.settle(self.index, requests, tokens, self.date)

    def owed(self, outcome: Outcome) -> tuple[int, int]:
        """By how much the requests and tokens that were counted have to change."""
        spent = self.spent
        if spent is None:
            return 0, 0
        return -1 if spent == 0 and outcome == "failed" else 0, spent - self.tokens


class Limits:
    """All accounts of this gateway. `share`: how many gateways have the limits among them; 1 while they are exact."""

    def __init__(self, defaults: Defaults, most_bindings: int = MOST_BINDINGS) -> None:
        self.share = 1
        self.date = (0, 0)
        self.begun: list[Account] = []  # got a budget since the last sweep, and nothing is known of its use before
        self._defaults = defaults
        self._most_bindings = most_bindings
        self._of_keys: dict[str, Binding] = {}
        self._of_addresses: dict[str, Binding] = {}
        self._accounts: dict[str, Account] = {}

    def __repr__(self) -> str:
        return f"<Limits {len(self._accounts)} accounts>"

    def __len__(self) -> int:
        return len(self._accounts)

    def change(self, defaults: Defaults) -> None:
        """Go by other defaults from now on; what was counted stays counted."""
        self._defaults = defaults
        for binding in (*self._of_keys.values(), *self._of_addresses.values()):
            binding.principal = _NOBODY  # so it is bound anew with the next request

    def turn(self, day: int, month: int) -> None:
        """Say which day and month it is, UTC, as 20261231 and 202612.

        A clock that is put back begins no budget anew: over a midnight, the later day goes on; by more than a day, it
        was wrong before, and what was counted then counts for the earlier one.
        """
        if day < self.date[0]:
            if not _is_eve(day, self.date[0]):
                self.date = (day, month)
                for account in self._accounts.values():
                    account.put_back(self.date)
        elif day > self.date[0]:
            self.date = (day, month)
            for account in list(self._accounts.values()):
                account.turn(self.date)
                spent = account.most_month < UNBOUNDED and account.month_tokens > 0
                if account.holders == 0 and account.running == 0 and not spent:
                    del self._accounts[account.name]

    def acquire(self, principal: Principal, address: str, tokens: int, now: float) -> LimitLease | None:
        """Count a request of about so many tokens. None where nothing limits it. Raises `RateLimited` and
        `InsufficientQuota`."""
        anonymous = principal.key_id == _ANONYMOUS
        binding = self._of_addresses.get(address) if anonymous else self._of_keys.get(principal.key_id)
        if binding is None or (binding.principal is not principal and binding.principal != principal):
            binding = self._bind(principal, address)
        if not (accounts := binding.accounts):
            return None
        index = binding.used_at = int(now * BUCKETS_PER_S)
        if tokens > binding.ceiling:
            tokens = binding.ceiling
        if (share := self.share) != 1:
            tokens = min(tokens, max(binding.ceiling // share, 1))
        oldest = index - SPAN
        for account in accounts:
            if account.oldest < oldest:
                account.slide(index)
            if share != 1:
                kind = account.exceeded_alone(tokens, share, index)
            elif (
                account.requests >= account.most_requests
                or account.tokens + tokens > account.most_tokens
                or account.running >= account.most_running
                or account.budgeted
            ):
                kind = account.exceeded(tokens)
            else:
                continue
            if kind is not None:
                raise self.refusal(binding, account, kind, tokens, now)
        for account in accounts:
            account.take(index, tokens)
        return LimitLease(self, binding, index, tokens, binding.granted_lines())

    def refusal(self, binding: Binding, account: Account, kind: Kind, tokens: int, now: float) -> Refusal:
        """Say no for what this gateway has counted."""
        wait_s = account.wait_s(kind, tokens, now) if kind in ("requests", "tokens") else _BUSY_S
        no = refuse(account, kind, wait_s, binding.lines(go_duration(account.reset_s(now))), account.used(kind))
        if self.share != 1 and no.facts is not None:
            no.facts = {**no.facts, "gateways": self.share}
        return no

    def sweep(self, now: float) -> None:
        """Drop some of what is idle; called a few times a second."""
        index = int(now * BUCKETS_PER_S)
        self.begun.clear()
        for bindings in (self._of_keys, self._of_addresses):
            excess = len(bindings) - self._most_bindings
            for key in list(_first(bindings, max(_SWEPT_AT_ONCE, excess))):
                binding = bindings.pop(key)
                idle = all(account.running == 0 for account in binding.accounts)
                if idle and (excess > 0 or binding.used_at < index - SPAN):
                    excess -= 1
                    self._let_go(binding)
                else:
                    bindings[key] = binding  # looked at last the next time

    def most_at_once(self, principal: Principal, address: str) -> int | None:
        """How many requests a caller may have under way; None where that is not bounded."""
        bounds = [limits.concurrency for _, limits in self._subjects(principal, address)]
        return min((bound for bound in bounds if bound is not None), default=None)

    def _subjects(self, principal: Principal, address: str) -> list[tuple[str, KeyLimits]]:
        """Whose limits hold for a principal, and which."""
        defaults = self._defaults
        subjects = [
            (f"key:{principal.key_id}", merged(principal.limits, defaults.key)),
            (f"tenant:{principal.tenant}", merged(principal.tenant_limits, defaults.tenant)),
            ("all", defaults.everybody),
        ]
        if principal.key_id == _ANONYMOUS:
            subjects.append((f"address:{network_of(address)}", defaults.address))
        return subjects

    def _bind(self, principal: Principal, address: str) -> Binding:
        """Find the accounts of a principal; of one whose limits have changed too."""
        anonymous = principal.key_id == _ANONYMOUS
        bindings, key = (self._of_addresses, address) if anonymous else (self._of_keys, principal.key_id)
        old = bindings.pop(key, None)
        subjects = self._subjects(principal, address)
        accounts = tuple(self._account(name, limits) for name, limits in subjects if limits != UNLIMITED)
        for account in accounts:
            account.holders += 1
        if old is not None:
            self._let_go(old)
        binding = bindings[key] = Binding(principal, accounts)
        return binding

    def _account(self, name: str, limits: KeyLimits) -> Account:
        account = self._accounts.get(name)
        budgeted = account is not None and account.budgeted
        if account is None:
            account = self._accounts[name] = Account(name, limits)
            account.turn(self.date)
        elif account.limits != limits:
            account.limit_to(limits)
        if account.budgeted and not budgeted:
            self.begun.append(account)
        return account

    def _let_go(self, binding: Binding) -> None:
        """A binding is no more. An account with a budget stays until its day, or month, is over."""
        for account in binding.accounts:
            account.holders -= 1
            if account.holders == 0 and not account.budgeted and account.running == 0:
                self._accounts.pop(account.name, None)


def _is_eve(day: int, of: int) -> bool:
    """Whether a day is the one before another."""
    return _ordinal(day) + 1 == _ordinal(of)


def _ordinal(day: int) -> int:
    return date(day // 10_000, day // 100 % 100, day % 100).toordinal()


def refuse(account: Account, kind: Kind, wait_s: float, lines: bytes, used: int | None) -> Refusal:
    """The refusal for a limit; `lines` are the headers that tell of limits, `used` is how much of it is, where that is
    known."""
    limits = account.limits
    most = {
        "requests": limits.requests_per_minute,
        "tokens": limits.tokens_per_minute,
        "concurrency": limits.concurrency,
        "day": limits.tokens_per_day,
        "month": limits.tokens_per_month,
    }[kind]
    subject = "all callers" if account.name == "all" else f"this {account.name.partition(':')[0]}"
    told = f"The limit of {_WHAT[kind].format(most=most)} for {subject} is reached."
    headers = (*(_pair(line) for line in lines.splitlines()), (b"cache-control", b"no-store"))
    if kind in ("day", "month"):
        told = f"{told} It begins anew with the next {kind}."
        refusal: RateLimited = InsufficientQuota(told, retry_after_s=60, headers=headers)
    else:
        told = f"{told} Try again in {go_duration(wait_s).decode()}."
        of_kind = TokensLimited if kind == "tokens" else RateLimited
        refusal = of_kind(told, retry_after_s=wait_s, headers=headers)
    scope = account.name.partition(":")[0]
    refusal.limit = (kind, scope)
    refusal.facts = {"limit": kind, "scope": scope, "used": used, "of": most, "left_s": round(wait_s, 3)}
    return refusal


def requests_lines(most: int, left: int, reset: bytes) -> bytes:
    return (
        b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %s\r\n"
        % (most, left if left > 0 else 0, reset)
    )


def tokens_lines(most: int, left: int, reset: bytes) -> bytes:
    return b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\nx-ratelimit-reset-tokens: %s\r\n" % (
        most,
        left if left > 0 else 0,
        reset,
    )


def merged(own: KeyLimits, default: KeyLimits) -> KeyLimits:
    """A subject's own limits where it has them, the default's where not."""
    if own is UNLIMITED or default is UNLIMITED:
        return default if own is UNLIMITED else own
    pairs = {name: getattr(own, name) for name in KeyLimits.__slots__ if getattr(own, name) is not None}
    return KeyLimits(**{name: getattr(default, name) for name in KeyLimits.__slots__} | pairs)


@lru_cache(4096)
def network_of(address: str) -> str:
    """Whose address it is: one caller has a whole /64 of IPv6."""
    if ":" not in address:
        return address
    return str(ip_network((IPv6Address(address.partition("%")[0]), 64), strict=False))


def _requests_left(account: Account) -> int:
    return account.most_requests - account.requests


def _tokens_left(account: Account) -> int:
    return account.most_tokens - account.tokens


def _first(bindings: dict[str, Binding], count: int) -> list[str]:
    return [key for key, _ in zip(bindings, range(count), strict=False)]


def _pair(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value
