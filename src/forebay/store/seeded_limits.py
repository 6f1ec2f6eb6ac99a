"""Limits of one gateway whose budgets go on where the usage ledger is, so that a restart gives nobody a budget anew.

The first request that counts in an account with a budget waits until the ledger has told what that account used of the
day and of the month before; so do those that come meanwhile. Accounts that are asked for at a time are one look-up.
Before the first one the ledger has taken in what a gateway that died left in its spool.

Where the ledger does not tell within `WAIT_S`, requests go on without: budgets count what this gateway has counted
itself, which a log line and a metric tell of. It is asked again until it answers.
"""

import asyncio
import logging
from datetime import date
from itertools import islice
from time import monotonic

from forebay.policy.accounts import Account, Date
from forebay.policy.auth import Principal
from forebay.policy.limits import LimitLease, Limits
from forebay.store import usage
from forebay.store.database import Database, why
from forebay.store.ledger import Ledger
from forebay.store.pending_lease import PendingLease

log = logging.getLogger("forebay.limits")

WAIT_S = 1.0
RETRY_S = 1.0
MOST_AT_ONCE = 500


class SeededLimits:
    """See the module's text. `run` has to be running."""

    def __init__(self, local: Limits, ledger: Ledger, database: Database) -> None:
        self._local = local
        self._ledger = ledger
        self._database = database
        self._unknown: dict[str, Account] = {}  # accounts with a budget of whose use before nothing is known
        self._late: set[str] = set()  # those of them that went on without
        self._waiting: list[PendingLease] = []
        self._work = asyncio.Event()
        self._away = False

    def __repr__(self) -> str:
        return f"<SeededLimits unknown={len(self._unknown)} {'away' if self._away else 'up'}>"

    @property
    def unknown(self) -> int:
        """How many budgets there are of whose use before nothing is known yet."""
        return len(self._unknown)

    def acquire(self, principal: Principal, address: str, tokens: int, now: float) -> LimitLease | None:
        """As `Limits.acquire`; the lease may have to be waited for: `decided` raises the refusal, if it is one."""
        try:
            lease = self._local.acquire(principal, address, tokens, now)
        finally:
            if self._local.begun:
                self._begin()
        if not self._unknown or self._away or lease is None or not self._is_unknown(lease):
            return lease
        pending = PendingLease(lease)
        pending.wait(asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        return pending

    async def run(self) -> None:
        """Ask the ledger, for as long as the gateway runs."""
        while True:
            if not self._unknown:
                self._work.clear()
                await self._work.wait()
            await self._look_up()

    def _begin(self) -> None:
        for account in self._local.begun:
            self._unknown[account.name] = account
            if self._away:
                self._late.add(account.name)
        self._local.begun.clear()
        self._work.set()

    def _is_unknown(self, lease: LimitLease) -> bool:
        return any(account.name in self._unknown for account in lease.binding.accounts)

    async def _look_up(self) -> None:
        """Have some of the accounts looked up, and decide on those that waited for them."""
        accounts, today = list(islice(self._unknown.values(), MOST_AT_ONCE)), self._local.date
        asked = asyncio.ensure_future(asyncio.to_thread(self._read, [one.name for one in accounts], today))
        await asyncio.wait({asked}, timeout=WAIT_S)
        if not asked.done():
            self._go_without(f"no answer within {WAIT_S:g} s")
        try:
            spent = await asked
        except Exception as failure:  # noqa: BLE001 (a bug must not end the task: requests would wait for ever)
            self._go_without(why(failure))
            await asyncio.sleep(RETRY_S)
            return
        for account in accounts:
            account.used_before(today, *spent.get(account.name, (0, 0)), late=account.name in self._late)
            self._unknown.pop(account.name, None)
            self._late.discard(account.name)
        if self._away:
            log.info("what budgets have used before can be looked up again")
            self._away = False
        self._decide()

    def _read(self, names: list[str], today: Date) -> dict[str, tuple[int, int]]:
        if not self._ledger.caught_up.wait(WAIT_S):
            raise TimeoutError("the ledger has not taken in yet what was spooled")
        return usage.spent(self._database, names, date.fromisoformat(str(today[0])))

    def _go_without(self, reason: str) -> None:
        if not self._away:
            log.warning(
                "what budgets have used before cannot be looked up: they count from now on", extra={"why": reason}
            )
        self._away = True
        self._late |= self._unknown.keys()
        self._decide()

    def _decide(self) -> None:
        """Decide on those that wait for no account any more."""
        now = monotonic()
        waiting, self._waiting = self._waiting, []
        for lease in waiting:
            if not lease.waits:
                continue
            if self._away or not self._is_unknown(lease):
                lease.decide_alone(self._local, now)
            else:
                self._waiting.append(lease)
