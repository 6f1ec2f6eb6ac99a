"""Limits whose counts gateways share, in Redis or Valkey: one call of one script (`limits.lua`) decides on a request.

Every request is counted here too (`policy/limits.py`), with the whole limit: what this gateway alone has used up needs
no asking. The rest waits for the script's word. One task asks, over one connection, for all that wait at a time; what
requests really needed goes along. So calls arrive in order, and there is no more of them under way than one batch.

Where the word does not come within `timeout_s`, the connection breaks or the server answers with an error, this gateway
is *degraded*: it decides alone, at once, on an equal share of each limit (that divided by the gateways heard of last,
at least one request), and of what was left of it when last seen. A word that comes late, but within `PATIENCE` times
that, ends it; else the counts are away. The task tries to come back, at growing intervals; requests never do. What was
decided meanwhile is added to the shared counts afterwards (`corrections.py`).

Where one account's key holds what is no count, the script deletes it: the request that found it is decided on here.
"""

import asyncio
import contextlib
import logging
from time import monotonic, time
from typing import Any

from redis.exceptions import InvalidResponse

from forebay.policy.accounts import BUCKETS_PER_S, Account
from forebay.policy.auth import Principal
from forebay.policy.limits import LimitLease, Limits
from forebay.store.corrections import MOST_AT_ONCE as MOST_SETTLED_AT_ONCE
from forebay.store.corrections import Corrections
from forebay.store.limits_script import AWAY, NONSENSE, Call, LimitsScript, answers_of, in_time
from forebay.store.shared_lease import GRANTED, MENDED, SharedLease, name_of, refusal_of, shared_lines

log = logging.getLogger("forebay.limits")

HEARTBEAT_S = 1.0
MOST_AT_ONCE = 128
PATIENCE = 10
LONGEST_PAUSE_S = 5.0
STABLE_S = 10.0
MENDED_TOLD_S = 60.0


class SharedLimits:
    """See the module's text. `run` has to be running; before it has connected, this gateway decides alone."""

    def __init__(self, local: Limits, url: str, timeout_s: float) -> None:
        self.degraded = True
        self.gateways = 1
        self.mended = 0
        self._local = local
        self._script = LimitsScript(url)
        self._timeout_s = timeout_s
        self._waiting: list[SharedLease] = []
        self.corrections = Corrections()
        self._work = asyncio.Event()
        self._ahead_s = time() - monotonic()  # the server's clock minus ours, as far as we know
        self._told = False
        self._heard_at = self._back_at = 0.0
        self._mended_at = -MENDED_TOLD_S
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
                self.corrections.watch(account)
            self._work.set()
        return lease

    def owe(self, account: Account, at: int, requests: int, tokens: int, lease: LimitLease) -> None:
        """Have a correction sent."""
        if self.corrections.add(account, at, requests, tokens, lease.date):
            self._work.set()

    # The task
    async def run(self) -> None:
        """Ask, for as long as the gateway runs."""
        while True:
            try:
                await self._script.connect()
                await self._round()
            except AWAY as failure:
                if self._closing:
                    return
                self._degrade(failure)
                await self._script.disconnect()
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(max(self._pause_s * 2, 0.05), LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Send what is still owed, if that is possible at once, and leave the others."""
        if not self.degraded:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s * 10):
                    while self.corrections.wait:
                        self._work.set()
                        await asyncio.sleep(self._timeout_s / 10)
        self.corrections.give_up()
        self._closing = True
        await self._script.disconnect()

    async def _round(self) -> None:
        """Ask for those that wait, and send what is owed, in one go; when there is neither, say that we live."""
        if not self.degraded:
            await self._until_work()
        now = monotonic()
        self.corrections.renew(now, now + self._ahead_s)
        waiting = [lease for lease in self._waiting if lease.waits]
        asked, self._waiting = waiting[:MOST_AT_ONCE], waiting[MOST_AT_ONCE:]
        settle = self._settlement(now, waiting)
        calls = [self._script.question(lease) for lease in asked]
        task = self._script.begin([settle, *calls] if settle is not None else calls)
        if late := not await in_time(task, self._timeout_s):
            self._decide_alone([*asked, *self._waiting], monotonic())
            if not await in_time(task, self._timeout_s * PATIENCE):
                task.cancel()
                raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        try:
            self._heard(settle, asked, task, late=late)
        except AWAY:
            self._waiting[:0] = asked
            raise
        if self.degraded:
            self._recover(monotonic())

    def _heard(
        self, settle: Call | None, asked: list[SharedLease], done: "asyncio.Future[list[Any]]", *, late: bool
    ) -> None:
        """Do as the script has said. Raises what `AWAY` lists, `InvalidResponse` for what the script never says."""
        try:
            answers = answers_of(done)
            if settle is not None:
                self._settled(settle, answers.pop(0), monotonic())
            for lease, answer in zip(asked, answers, strict=True):
                if late:
                    self._undo(lease, answer)
                else:
                    self._answered(lease, answer)
        except (*NONSENSE, ValueError) as failure:
            raise InvalidResponse(f"not the script's answer: {failure}") from failure

    async def _until_work(self) -> None:
        if not self._waiting and not len(self.corrections):
            self._work.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._work.wait()

    # Decisions
    def _settlement(self, now: float, waiting: list[SharedLease]) -> Call | None:
        """The next batch of corrections, or the last one again; None where nothing is to be said just now."""
        if not (self.corrections.wait or self.degraded) and now - self._heard_at < HEARTBEAT_S * 0.9:
            return None
        return self._script.settlement(self.corrections.batch(waiting))

    def _answered(self, lease: SharedLease, answer: list[int]) -> None:
        decided = lease.decided
        assert decided is not None
        if answer[0] == MENDED:
            self._tell_of([lease.binding.accounts[number - 1].name for number in answer[1:]])
            self._fall_back(lease, monotonic())
            return
        lease.sure()
        if answer[0] == GRANTED:
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
        if answer[0] == GRANTED:
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
        if lease.waits and lease.decide_alone(self._local, now):
            self._decided_alone(lease, now)

    def _settled(self, settlement: Call, answer: list[int], now: float) -> None:
        self._ahead_s = answer[0] / 1000 - now
        self.gateways = max(answer[1], 1)
        self.corrections.answered()
        self._heard_at = now
        self._tell_of([name_of(settlement[2 * number + 1]) for number in answer[2:]])

    def _tell_of(self, mended: list[str]) -> None:
        """Some accounts' shared counts were deleted, for they were none."""
        now = monotonic()
        if mended and now - self._mended_at > MENDED_TOLD_S:
            self._mended_at = now
            log.warning("shared counts were no counts and begin anew", extra={"of": ", ".join(mended[:10])})
        self.mended += len(mended)

    # Coming and going
    def _degrade(self, failure: Exception) -> None:
        now = monotonic()
        self.corrections.renewed_at = 0.0
        self._decide_alone(self._waiting, now)
        if not self._told:
            self._told = True
            if now - self._back_at > STABLE_S:
                self._pause_s = 0.0
            fields = {"gateways": self.gateways, "why": f"{type(failure).__name__}: {failure}"[:200]}
            log.warning("shared limits are away: each gateway enforces its share alone", extra=fields)

    def _recover(self, now: float) -> None:
        if len(self.corrections) >= MOST_SETTLED_AT_ONCE:
            return  # first what was decided meanwhile, all but the last of it
        self.degraded = False
        self._local.share = 1
        self._back_at = now
        if self._told:
            self._told = False
            log.warning("shared limits are back", extra={"gateways": self.gateways})
