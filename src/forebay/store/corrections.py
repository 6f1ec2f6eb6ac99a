"""What a gateway owes the counts that it shares: what requests really needed, and what runs, until it is counted there.

Corrections that wait are merged by account and half second, and at most `MOST_OWED` of them kept; what exceeds that is
counted as lost, and told. A batch has a number and is sent again until it was answered: it counts once.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from forebay.policy.accounts import BUCKETS_PER_S, SPAN, UNBOUNDED, Account, Date
from forebay.store.shared_lease import SharedLease, keys_of

log = logging.getLogger("forebay.limits")

RENEWAL_S = 20.0
MOST_OWED = 50_000
MOST_AT_ONCE = 500
Batch = tuple[int, list[str], list[int]]  # its number, the script's keys, the script's arguments


@dataclass(slots=True)
class Owed:
    """A correction to one account that waits to be sent."""

    account: Account
    at: int
    date: Date
    requests: int = 0
    tokens: int = 0


class Corrections:
    """Those of one gateway."""

    def __init__(self) -> None:
        self.lost = 0
        self.renewed_at = 0.0
        self._owed: dict[tuple[str, int, int], Owed] = {}
        self._running: dict[str, Account] = {}  # accounts that bound what runs at once
        self._sent: Batch | None = None  # those that no answer has come for
        self._number = 0

    def __repr__(self) -> str:
        return f"<Corrections {len(self._owed)} sent={self._sent is not None} lost={self.lost}>"

    def __len__(self) -> int:
        return len(self._owed)

    @property
    def wait(self) -> bool:
        """Whether any is not counted yet."""
        return bool(self._owed) or self._sent is not None

    def watch(self, account: Account) -> bool:
        """Tell again and again what runs of an account, where that is bounded; return whether it is."""
        bounded = account.most_running < UNBOUNDED
        if bounded:
            self._running[account.name] = account
        return bounded

    def add(self, account: Account, at: int, requests: int, tokens: int, date: Date) -> bool:
        """Take a correction in; return whether there is anything to send."""
        bounded = self.watch(account)
        if not (requests or tokens or bounded):
            return False
        key = account.name, at, date[0]
        owed = self._owed.get(key)
        if owed is None:
            if len(self._owed) >= MOST_OWED:
                self._lose(1, f"more than {MOST_OWED} wait")
                return False
            owed = self._owed[key] = Owed(account, at, date)
        owed.requests += requests
        owed.tokens += tokens
        return True

    def batch(self, waiting: Iterable[SharedLease]) -> Batch:
        """The next batch, or the last one again; what runs is told without those that wait to be decided on."""
        if self._sent is not None:
            return self._sent
        self._number += 1
        undecided = Counter(account.name for lease in waiting for account in lease.binding.accounts)
        keys: list[str] = []
        arguments: list[int] = []
        for key in list(self._owed)[:MOST_AT_ONCE]:
            owed = self._owed.pop(key)
            account = owed.account
            keys += keys_of(account)
            arguments += [owed.at, owed.requests, owed.tokens, *owed.date, int(account.budgeted)]
            bounded = account.most_running < UNBOUNDED
            arguments.append(account.running - undecided[account.name] if bounded else -1)
        self._sent = self._number, keys, arguments
        return self._sent

    def answered(self) -> None:
        """What was sent is counted."""
        self._sent = None

    def renew(self, now: float, there: float) -> None:
        """Every now and then say again what runs, so that the server, where it is `there`, forgets it no sooner than
        we do."""
        if now - self.renewed_at <= RENEWAL_S:
            return
        self.renewed_at = now
        oldest = int(there * BUCKETS_PER_S) - SPAN
        for name, account in list(self._running.items()):
            key = name, 0, 0
            self._owed.setdefault(key, Owed(account, 0, (0, 0)))
            if account.running == 0:
                del self._running[name]
        for key, owed in list(self._owed.items()):
            if 0 < owed.at < oldest and not owed.account.budgeted:
                del self._owed[key]  # it counts no more

    def give_up(self) -> None:
        """There is no time left for those that wait."""
        self._lose(len(self._owed), "the gateway ends")

    def _lose(self, count: int, why: str) -> None:
        if self.lost == 0 and count:
            log.error("corrections to shared limits are given up", extra={"count": count, "why": why})
        self.lost += count
