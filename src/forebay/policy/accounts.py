"""How much has one key, one tenant, one address, or everybody used? Counts only; what to say of it is `limits.py`'s.

A limit a minute holds in *any* sixty seconds, not in each of the clock's minutes and not on average: what a burst took
comes back when it is a minute old. A bucket that only refills would let twice the limit through within a minute. So
requests and tokens are counted by the half second, and half seconds leave the count once all of them is more than a
minute old: never is more than the limit let through, and a caller that takes all he can has at least 59.5/60 of it.

Tokens are counted at the half second in which the request came. Where it turns out to have needed fewer, they leave
that half second's count; what it needed beyond is counted when it becomes known. Budgets are counts by the UTC day and
month. `store/limits.lua` does the same, step by step, where gateways share their counts.
"""

from typing import Literal

from forebay.policy.auth import KeyLimits

Kind = Literal["requests", "tokens", "concurrency", "day", "month"]
Date = tuple[int, int]  # day and month, UTC, as 20261231 and 202612

BUCKETS_PER_S = 2
SPAN = 60 * BUCKETS_PER_S
UNBOUNDED = 10**15  # beyond any count, and exact in Lua's numbers too
_KINDS: tuple[Kind, ...] = ("requests", "tokens", "concurrency", "day", "month")
_WINDOW_S = (SPAN + 1) / BUCKETS_PER_S


class Sight:
    """What was known of an account's use at other gateways in the half second `at`.

    `pending` are requests that wait for the shared counts' word, though they are counted here; `caps` bound this
    gateway's own use while it decides alone, None before it does.
    """

    __slots__ = ("at", "caps", "pending", "pending_tokens", "requests", "tokens")

    def __init__(self) -> None:
        self.at = -UNBOUNDED
        self.requests = self.tokens = self.pending = self.pending_tokens = 0
        self.caps: tuple[int, int] | None = None


class Account:
    """What one subject may use and has used. `oldest` is its first half second, `buckets` hold requests and tokens."""

    __slots__ = (
        "buckets",
        "budgeted",
        "day",
        "day_tokens",
        "holders",
        "limits",
        "month",
        "month_tokens",
        "most_day",
        "most_month",
        "most_requests",
        "most_running",
        "most_tokens",
        "name",
        "oldest",
        "requests",
        "running",
        "sight",
        "tokens",
    )

    def __init__(self, name: str, limits: KeyLimits) -> None:
        self.name = name
        self.buckets: dict[int, list[int]] = {}
        self.oldest = UNBOUNDED
        self.requests = self.tokens = self.running = 0
        self.day = self.month = self.day_tokens = self.month_tokens = 0
        self.holders = 0  # how many bindings refer to it
        self.sight: Sight | None = None
        self.limit_to(limits)

    def __repr__(self) -> str:
        return f"<Account {self.name} {self.requests} requests {self.tokens} tokens {self.running} running>"

    def limit_to(self, limits: KeyLimits) -> None:
        """Take limits on, keeping what was counted."""
        self.limits = limits
        if self.sight is not None:
            self.sight.caps = None  # it was a share of the old ones
        self.most_requests = _most(limits.requests_per_minute)
        self.most_tokens = _most(limits.tokens_per_minute)
        self.most_running = _most(limits.concurrency)
        self.most_day = _most(limits.tokens_per_day)
        self.most_month = _most(limits.tokens_per_month)
        self.budgeted = limits.tokens_per_day is not None or limits.tokens_per_month is not None

    @property
    def ceiling(self) -> int:
        """The most tokens that one request can ever be granted."""
        return max(min(self.most_tokens, self.most_day, self.most_month), 1)

    def slide(self, index: int) -> None:
        """Forget the half seconds that are a minute old. (Callers look at `oldest` first: there seldom are any.)"""
        buckets = self.buckets
        for old in list(buckets):
            if old >= index - SPAN:
                self.oldest = old
                return
            requests, tokens = buckets.pop(old)
            self.requests -= requests
            self.tokens -= tokens
        self.oldest = UNBOUNDED

    def turn(self, date: Date) -> None:
        """Begin the budgets anew where a day or a month has."""
        day, month = date
        if self.day != day:
            self.day, self.day_tokens = day, 0
        if self.month != month:
            self.month, self.month_tokens = month, 0

    def put_back(self, date: Date) -> None:
        """It is an earlier date after all: what was counted counts for that."""
        self.day, self.month = min(self.day, date[0]), min(self.month, date[1])

    def used_before(self, date: Date, day_tokens: int, month_tokens: int, *, late: bool) -> None:
        """What the budgets of a date had used before anything was counted here. Where that comes `late`, some of what
        was counted here is in it: then the larger count stands."""
        if self.day == date[0]:
            self.day_tokens = max(self.day_tokens, day_tokens) if late else self.day_tokens + day_tokens
        if self.month == date[1]:
            self.month_tokens = max(self.month_tokens, month_tokens) if late else self.month_tokens + month_tokens

    def exceeded(self, tokens: int) -> Kind | None:
        """Which limit one more request would exceed."""
        if self.requests >= self.most_requests:
            return "requests"
        if tokens:
            if self.tokens + tokens > self.most_tokens:
                return "tokens"
            if self.day_tokens + tokens > self.most_day:
                return "day"
            if self.month_tokens + tokens > self.most_month:
                return "month"
        if self.running >= self.most_running:
            return "concurrency"
        return None

    def exceeded_alone(self, tokens: int, share: int, index: int) -> Kind | None:
        """The same while `share` gateways decide without each other; what still waits for a word does not count."""
        sight = self.sight or _UNSEEN
        pending, pending_tokens = sight.pending, sight.pending_tokens
        most_requests, most_tokens = self._caps(share, index)
        if self.requests - pending >= most_requests:
            return "requests"
        if tokens:
            if self.tokens - pending_tokens + tokens > most_tokens:
                return "tokens"
            if self.day_tokens - pending_tokens + tokens > self.most_day // share:
                return "day"
            if self.month_tokens - pending_tokens + tokens > self.most_month // share:
                return "month"
        if self.running - pending >= _shared_out(self.most_running, share):
            return "concurrency"
        return None

    def see(self, requests: int, tokens: int, index: int) -> None:
        """The shared counts were so many just now."""
        sight = self.sight = self.sight or Sight()
        sight.requests = requests - (self.requests - sight.pending)
        sight.tokens = tokens - (self.tokens - sight.pending_tokens)
        sight.at = index
        sight.caps = None

    def _caps(self, share: int, index: int) -> tuple[int, int]:
        """This gateway's share of the limits; and no more than its share of what was left when last seen."""
        requests, tokens = _shared_out(self.most_requests, share), _shared_out(self.most_tokens, share)
        sight = self.sight
        if sight is None or index - sight.at > SPAN:
            return requests, tokens
        if sight.caps is None:
            own, own_tokens = self.requests - sight.pending, self.tokens - sight.pending_tokens
            left = max(self.most_requests - sight.requests - own, 0)
            tokens_left = max(self.most_tokens - sight.tokens - own_tokens, 0)
            sight.caps = own + left // share, own_tokens + tokens_left // share
        return min(requests, sight.caps[0]), min(tokens, sight.caps[1])

    def take(self, index: int, tokens: int) -> None:
        """Count a request."""
        bucket = self.buckets.get(index)
        if bucket is None:
            self._open(index)[:] = 1, tokens
        else:
            bucket[0] += 1
            bucket[1] += tokens
        self.requests += 1
        self.tokens += tokens
        self.running += 1
        if self.budgeted:
            self.day_tokens += tokens
            self.month_tokens += tokens

    def settle(self, index: int, requests: int, tokens: int, date: Date) -> None:
        """Correct the count of the half second `index`, if it still counts, and the budgets of its date."""
        if (bucket := self.buckets.get(index)) is not None:
            bucket[0] += requests
            bucket[1] += tokens
            self.requests += requests
            self.tokens += tokens
        if self.budgeted:
            self._settle_budgets(tokens, date)

    def charge(self, index: int, tokens: int, date: Date) -> None:
        """Count tokens that a request needed beyond those it was granted, now that they are known."""
        if index - SPAN > self.oldest:
            self.slide(index)
        (self.buckets.get(index) or self._open(index))[1] += tokens
        self.tokens += tokens
        if self.budgeted:
            self._settle_budgets(tokens, date)

    def used(self, kind: Kind) -> int:
        """How much of a limit is taken up."""
        counts = (self.requests, self.tokens, self.running, self.day_tokens, self.month_tokens)
        return counts[_KINDS.index(kind)]

    def wait_s(self, kind: Kind, tokens: int, now: float) -> float:
        """Until when a request would fit again, if nothing else came; at most a window."""
        place = 0 if kind == "requests" else 1
        over = self.requests + 1 - self.most_requests if place == 0 else self.tokens + tokens - self.most_tokens
        for index, bucket in self.buckets.items():
            over -= bucket[place]
            if over <= 0:
                return (index + SPAN + 1) / BUCKETS_PER_S - now
        return _WINDOW_S

    def reset_s(self, now: float) -> float:
        """Until when nothing will count any more."""
        if not self.buckets:
            return 0.0
        return (next(reversed(self.buckets)) + SPAN + 1) / BUCKETS_PER_S - now

    def is_idle(self, index: int) -> bool:
        """Whether nothing of it counts any more, budgets aside."""
        return self.running == 0 and (not self.buckets or next(reversed(self.buckets)) < index - SPAN)

    def _open(self, index: int) -> list[int]:
        bucket = self.buckets[index] = [0, 0]
        if self.oldest == UNBOUNDED:
            self.oldest = index
        return bucket

    def _settle_budgets(self, tokens: int, date: Date) -> None:
        if self.day == date[0]:
            self.day_tokens += tokens
        if self.month == date[1]:
            self.month_tokens += tokens


_UNSEEN = Sight()


def _shared_out(most: int, share: int) -> int:
    """One gateway's part of a limit: at least one, where there is any."""
    return most // share or min(most, 1)


def _most(limit: int | None) -> int:
    return UNBOUNDED if limit is None else min(limit, UNBOUNDED)
