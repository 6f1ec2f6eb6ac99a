"""One request's share that is taken here, but not sure before somebody else has spoken."""

import asyncio

from forebay.policy.accounts import BUCKETS_PER_S, Sight
from forebay.policy.limits import LimitLease, Limits
from forebay.policy.verdict import Outcome


class PendingLease(LimitLease):
    """A lease that is waited for: `decided` raises the refusal, if it is one."""

    __slots__ = ("pending", "taken")

    def __init__(self, local: LimitLease) -> None:
        assert local.owner is not None
        super().__init__(local.owner, local.binding, local.index, local.tokens, local.lines)
        self.decided: asyncio.Future[None] | None = None
        self.pending = False
        self.taken = True  # whether it counts, or will

    @property
    def waits(self) -> bool:
        """Whether somebody still waits for the word."""
        return self.decided is not None and not self.decided.done()

    def wait(self, decided: asyncio.Future[None]) -> None:
        """Wait for the word; until then what was taken here is not sure."""
        self.decided, self.pending = decided, True
        for account in self.binding.accounts:
            sight = account.sight = account.sight or Sight()
            sight.pending += 1
            sight.pending_tokens += self.tokens

    def sure(self) -> None:
        """It waits no longer, whatever became of it."""
        if self.pending:
            self.pending = False
            for account in self.binding.accounts:
                if account.sight is not None:
                    account.sight.pending -= 1
                    account.sight.pending_tokens -= self.tokens

    def decide_alone(self, limits: Limits, now: float) -> bool:
        """Does it fit into what this gateway knows of, where it is counted already? Return whether it does."""
        assert self.decided is not None
        for account in self.binding.accounts:
            kind = account.exceeded_alone(self.tokens, limits.share, int(now * BUCKETS_PER_S))
            if kind is not None:
                self.taken = False
                self.decided.set_exception(limits.refusal(self.binding, account, kind, self.tokens, now))
                return False
        self.sure()
        self.decided.set_result(None)
        return True

    def release(self, outcome: Outcome, now: float) -> None:
        self.sure()
        if not self.taken:  # refused: nothing of it counts anywhere
            self.spent, outcome = 0, "failed"
        super().release(outcome, now)
