"""Limits whose counts gateways share, in Redis or Valkey: one call of one script (`limits.lua`) decides on a request.

Every request is counted here too (`policy/limits.py`), with the whole limit: what this gateway alone has used up needs
no asking. The rest waits for the script's word. One task asks, over one connection, for all that wait at a time; what
requests really needed goes along. So calls arrive in order, and there is no more of them under way than one batch.

Where the word does not come within `timeout_s`, the connection breaks or the server answers with an error, this gateway
is *degraded*: it decides alone, at once, on an equal share of each limit (that divided by the gateways heard of last,
at least one request), and of what was left of it when last seen. A word that comes late, but within `PATIENCE` times
that, ends it; else the counts are away. The task tries to come back, at growing intervals; requests never do. What was
decided meanwhile is added to the shared counts afterwards, half second by half second. A batch of corrections has a
number and is sent again until it was answered: it counts once. Corrections that wait are merged by account and half
second, and at most `MOST_OWED` of them kept; what exceeds that is counted as lost, and told.
"""

import asyncio
import logging
import os
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from time import monotonic, time
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from forebay.policy.accounts import BUCKETS_PER_S, SPAN, UNBOUNDED, Account, Date
from forebay.policy.auth import Principal
from forebay.policy.limits import LimitLease, Limits
from forebay.store.shared_lease import PREFIX, SharedLease, keys_of, refusal_of, shared_lines

log = logging.getLogger("forebay.limits")

SCRIPT = (files("forebay.store") / "limits.lua").read_text()
GATEWAYS, SETTLED = PREFIX + "gateways", PREFIX + "settled:"
HEARTBEAT_S = 1.0
RENEWAL_S = 20.0
MOST_AT_ONCE = 128
MOST_OWED = 50_000
MOST_SETTLED_AT_ONCE = 500
CONNECT_S = 1.0
PATIENCE = 10
LONGEST_PAUSE_S = 5.0
STABLE_S = 10.0
_AWAY = (RedisError, OSError, TimeoutError)


@dataclass(slots=True)
class Owed:
    """A correction to one account that waits to be sent."""

    account: Account
    at: int
    date: Date
    requests: int = 0
    tokens: int = 0


class SharedLimits:
    """See the module's text. `run` has to be running; before it has connected, this gateway decides alone."""

    def __init__(self, local: Limits, url: str, timeout_s: float) -> None:
        self.degraded = True
        self.gateways = 1
        self.lost = 0
        self._local = local
        self._url = url
        self._timeout_s = timeout_s
        self._name = os.urandom(8).hex()
        self._redis: Redis | None = None
        self._sha = ""
        self._waiting: list[SharedLease] = []
        self._owed: dict[tuple[str, int, int], Owed] = {}
        self._running: dict[str, Account] = {}  # accounts that bound what runs at once
        self._sent: list[Any] | None = None  # the corrections that no answer has come for
        self._number = 0
        self._work = asyncio.Event()
        self._ahead_s = time() - monotonic()  # the server's clock minus ours, as far as we know
        self._told = False
        self._renewed_at = self._heard_at = self._back_at = 0.0
        self._pause_s = 0.0
        self._closing = False

    def __repr__(self) -> str:
        return f"<SharedLimits {'degraded' if self.degraded else 'shared'} gateways={self.gateways}>"

    # What the pipeline asks
    def acquire(self, principal: Principal, address: str, tokens: int, now: float) -> LimitLease | None:
        """As `Limits.acquire`; the lease may have to be waited for: `decided` raises the refusal, if it is one."""
        local = self._local.acquire(principal, address, tokens, now)
        if local is None:
            return None
        lease = SharedLease(self, local)
        if self.degraded:
            self._decided_alone(lease, now)
        else:
            lease.wait(asyncio.get_running_loop().create_future())
            self._waiting.append(lease)
            for account in lease.binding.accounts:
                if account.most_running < UNBOUNDED:
                    self._running[account.name] = account
            self._work.set()
        return lease

    def owe(self, account: Account, at: int, requests: int, tokens: int, lease: LimitLease) -> None:
        """Have a correction sent."""
        bounded = account.most_running < UNBOUNDED
        if bounded:
            self._running[account.name] = account
        if not (requests or tokens or bounded):
            return
        key = account.name, at, lease.date[0]
        owed = self._owed.get(key)
        if owed is None:
            if len(self._owed) >= MOST_OWED:
                self._lose(1)
                return
            owed = self._owed[key] = Owed(account, at, lease.date)
        owed.requests += requests
        owed.tokens += tokens
        self._work.set()

    # The task
    async def run(self) -> None:
        """Ask, for as long as the gateway runs."""
        while True:
            try:
                if self._redis is None:
                    await self._connect()
                await self._round()
            except _AWAY as failure:
                if self._closing:
                    return
                self._degrade(failure)
                await self._disconnect()
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(max(self._pause_s * 2, 0.05), LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Send what is still owed, if that is possible at once, and leave the others."""
        if not self.degraded:
            try:
                async with asyncio.timeout(self._timeout_s * 10):
                    while self._owed or self._sent:
                        self._work.set()
                        await asyncio.sleep(self._timeout_s / 10)
            except TimeoutError:
                self._lose(len(self._owed))
        else:
            self._lose(len(self._owed))
        self._closing = True
        await self._disconnect()

    async def _connect(self) -> None:
        self._redis = Redis.from_url(
            self._url,
            socket_timeout=CONNECT_S,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            max_connections=2,
        )
        async with asyncio.timeout(CONNECT_S):
            self._sha = await self._redis.script_load(SCRIPT)

    async def _disconnect(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await redis.aclose()
            except _AWAY:
                pass  # it is away: that is why

    async def _round(self) -> None:
        """Ask for those that wait, and send what is owed, in one go; when there is neither, say that we live."""
        if not self.degraded:
            await self._until_work()
        now = monotonic()
        if now - self._renewed_at > RENEWAL_S:
            self._renew(now)
        waiting = [lease for lease in self._waiting if lease.waits]
        asked, self._waiting = waiting[:MOST_AT_ONCE], waiting[MOST_AT_ONCE:]
        settle = self._to_settle(now, waiting)
        assert self._redis is not None
        batch = self._redis.pipeline(transaction=False)
        if settle:
            batch.evalsha(self._sha, *settle)
        for lease in asked:
            batch.evalsha(self._sha, *self._question(lease))
        task = asyncio.ensure_future(batch.execute(raise_on_error=False))
        task.add_done_callback(_look_at)
        late = not await self._in_time(task, self._timeout_s)
        if late:
            self._decide_alone([*asked, *self._waiting], monotonic())
            if not await self._in_time(task, self._timeout_s * PATIENCE):
                task.cancel()
                raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        try:
            answers = task.result()
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        except _AWAY:
            self._waiting[:0] = asked
            raise
        if settle:
            self._settled(answers.pop(0), monotonic())
        for lease, answer in zip(asked, answers, strict=True):
            if late:
                self._undo(lease, answer)
            else:
                self._answered(lease, answer)
        if self.degraded:
            self._recover(monotonic())

    async def _until_work(self) -> None:
        if not self._waiting and not self._owed:
            self._work.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._work.wait()
            except TimeoutError:
                return

    async def _in_time(self, task: asyncio.Future[Any], limit_s: float) -> bool:
        """Whether the answer comes in time. (It does if it is there, and was only not read for want of time.)"""
        await asyncio.wait({task}, timeout=limit_s)
        for _ in range(5):
            if not task.done():
                await asyncio.sleep(0)
        return task.done()

    # Decisions
    def _question(self, lease: SharedLease) -> list[Any]:
        keys: list[Any] = [GATEWAYS, SETTLED + self._name]
        arguments: list[Any] = ["take", "", self._name, lease.tokens, *lease.date]
        for account in lease.binding.accounts:
            keys += keys_of(account)
            limits = account.limits
            arguments += [
                -1 if limit is None else limit
                for limit in (
                    limits.requests_per_minute,
                    limits.tokens_per_minute,
                    limits.concurrency,
                    limits.tokens_per_day,
                    limits.tokens_per_month,
                )
            ]
        return [len(keys), *keys, *arguments]

    def _answered(self, lease: SharedLease, answer: list[int]) -> None:
        decided = lease.decided
        assert decided is not None
        lease.sure()
        if answer[0]:
            for account, requests, tokens in zip(lease.binding.accounts, answer[2::2], answer[3::2], strict=True):
                account.see(requests, tokens, lease.index)
            lease.at = answer[1]
            lease.lines = shared_lines(lease.binding, answer[2:], b"1m0s")
            if decided.done():  # whoever waited has gone: it was released, and nothing was done for it
                lease.spent = 0
                lease.settle("cancelled")
            else:
                decided.set_result(None)
            return
        lease.taken = False
        if not decided.done():
            decided.set_exception(refusal_of(lease.binding, answer))

    def _undo(self, lease: SharedLease, answer: list[int]) -> None:
        """A word that came too late: this gateway has decided itself, and what it counts is owed already."""
        if answer[0]:
            for account in lease.binding.accounts:
                self.owe(account, answer[1], -1, -lease.tokens, lease)

    def _decide_alone(self, waiting: list[SharedLease], now: float) -> None:
        """From now on this gateway decides; on those too that wait."""
        self.degraded = True
        self._local.share = self.gateways
        self._waiting = []
        for lease in waiting:
            self._fall_back(lease, now)

    def _decided_alone(self, lease: SharedLease, now: float) -> None:
        """It counts here; the shared counts shall have it when they are back."""
        lease.at = int((now + self._ahead_s) * BUCKETS_PER_S)
        for account in lease.binding.accounts:
            self.owe(account, lease.at, 1, lease.tokens, lease)

    def _fall_back(self, lease: SharedLease, now: float) -> None:
        """Its word did not come: does it fit into this gateway's share, where it is counted already?"""
        decided = lease.decided
        assert decided is not None
        if decided.done():
            return
        for account in lease.binding.accounts:
            kind = account.exceeded_alone(lease.tokens, self._local.share, int(now * BUCKETS_PER_S))
            if kind is not None:
                lease.taken = False
                decided.set_exception(self._local.refusal(lease.binding, account, kind, lease.tokens, now))
                return
        lease.sure()
        self._decided_alone(lease, now)
        decided.set_result(None)

    # Corrections
    def _to_settle(self, now: float, waiting: list[SharedLease]) -> list[Any] | None:
        """The next batch of corrections, or the last one again; None where nothing is to be said just now."""
        if self._sent is not None:
            return self._sent
        if not self._owed and now - self._heard_at < HEARTBEAT_S * 0.9 and not self.degraded:
            return None
        keys: list[Any] = [GATEWAYS, SETTLED + self._name]
        self._number += 1
        undecided = Counter(account.name for lease in waiting for account in lease.binding.accounts)
        arguments: list[Any] = ["settle", "", self._name, self._number]
        for key in list(self._owed)[:MOST_SETTLED_AT_ONCE]:
            owed = self._owed.pop(key)
            account = owed.account
            keys += keys_of(account)
            arguments += [owed.at, owed.requests, owed.tokens, *owed.date, int(account.budgeted)]
            bounded = account.most_running < UNBOUNDED
            arguments.append(account.running - undecided[account.name] if bounded else -1)
        self._sent = [len(keys), *keys, *arguments]
        return self._sent

    def _settled(self, answer: list[int], now: float) -> None:
        self._sent = None
        self._heard_at = now
        self._ahead_s = answer[0] / 1000 - now
        self.gateways = max(answer[1], 1)

    def _renew(self, now: float) -> None:
        """Say again what runs, so that the server forgets it no sooner than we do."""
        self._renewed_at = now
        oldest = int((now + self._ahead_s) * BUCKETS_PER_S) - SPAN
        for name, account in list(self._running.items()):
            key = name, 0, 0
            self._owed.setdefault(key, Owed(account, 0, (0, 0)))
            if account.running == 0:
                del self._running[name]
        for key, owed in list(self._owed.items()):
            if 0 < owed.at < oldest and not owed.account.budgeted:
                del self._owed[key]  # it counts no more

    # Coming and going
    def _degrade(self, failure: Exception) -> None:
        now = monotonic()
        self._renewed_at = 0.0
        self._decide_alone(self._waiting, now)
        if not self._told:
            self._told = True
            if now - self._back_at > STABLE_S:
                self._pause_s = 0.0
            fields = {"gateways": self.gateways, "why": f"{type(failure).__name__}: {failure}"[:200]}
            log.warning("shared limits are away: each gateway enforces its share alone", extra=fields)

    def _recover(self, now: float) -> None:
        if len(self._owed) >= MOST_SETTLED_AT_ONCE:
            return  # first what was decided meanwhile, all but the last of it
        self.degraded = False
        self._local.share = 1
        self._back_at = now
        if self._told:
            self._told = False
            log.warning("shared limits are back", extra={"gateways": self.gateways})

    def _lose(self, count: int) -> None:
        if self.lost == 0 and count:
            log.error("corrections to shared limits are given up: too many wait", extra={"most": MOST_OWED})
        self.lost += count


def _look_at(done: asyncio.Future[Any]) -> None:
    """Have a failure looked at, though nobody waits for it any longer."""
    if not done.cancelled():
        done.exception()
