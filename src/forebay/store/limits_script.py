"""`limits.lua` in the server that keeps the shared counts, and the one connection over which it is called."""

import asyncio
import os
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from forebay.policy.limits import LimitLease
from forebay.store.corrections import Batch
from forebay.store.shared_lease import PREFIX, limits_of

SCRIPT = (files("forebay.store") / "limits.lua").read_text()
GATEWAYS, SETTLED = PREFIX + "gateways", PREFIX + "settled:"
# RuntimeError is uvloop's, of a connection just reset; ValueError redis-py's, of a number that is none
AWAY = (RedisError, OSError, TimeoutError, RuntimeError, ValueError)
NONSENSE = (TypeError, LookupError, AttributeError)  # what comes of reading an answer of another form than ours have
CONNECT_S = 1.0
Call = list[Any]  # how many keys, the keys, the arguments


class LimitsScript:
    """Whoever calls it deals with `AWAY`."""

    def __init__(self, url: str) -> None:
        self._name = os.urandom(8).hex()  # this gateway's
        self._url = url
        self._redis: Redis | None = None
        self._sha = ""

    def __repr__(self) -> str:
        return f"<LimitsScript {'connected' if self._redis is not None else 'away'}>"

    async def connect(self) -> None:
        """Connect, where it is not, and have the script there."""
        if self._redis is not None:
            return
        self._redis = Redis.from_url(
            self._url,
            socket_timeout=CONNECT_S,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            max_connections=2,
        )
        async with asyncio.timeout(CONNECT_S):
            self._sha = await self._redis.script_load(SCRIPT)

    async def disconnect(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await redis.aclose()
            except AWAY:
                pass  # it is away: that is why

    def question(self, lease: LimitLease) -> Call:
        """May this request?"""
        keys, limits = limits_of(lease)
        return self._call(keys, ["take", "", self._name, lease.tokens, *lease.date, *limits])

    def settlement(self, batch: Batch) -> Call:
        """Count what was needed, and take us for alive."""
        number, keys, corrections = batch
        return self._call(keys, ["settle", "", self._name, number, *corrections])

    def _call(self, keys: list[str], arguments: list[Any]) -> Call:
        return [2 + len(keys), GATEWAYS, SETTLED + self._name, *keys, *arguments]

    def begin(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """Call it so many times in one go; the answers come together, failures among them."""
        assert self._redis is not None
        batch = self._redis.pipeline(transaction=False)
        for call in calls:
            batch.evalsha(self._sha, *call)
        task = asyncio.ensure_future(batch.execute(raise_on_error=False))
        task.add_done_callback(_look_at)
        return task


async def in_time(task: asyncio.Future[Any], limit_s: float) -> bool:
    """Whether the answer comes in time. (It does if it is there, and was only not read for want of time.)"""
    await asyncio.wait({task}, timeout=limit_s)
    for _ in range(5):
        if not task.done():
            await asyncio.sleep(0)
    return task.done()


def answers_of(done: asyncio.Future[list[Any]]) -> list[Any]:
    """What was answered. Raises the first failure; TypeError for what is no list."""
    for answer in done.result():
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, list):
            raise TypeError(f"{answer!r:.100} is no list")
    return done.result()


def _look_at(done: asyncio.Future[Any]) -> None:
    """Have a failure looked at, though nobody waits for it any longer."""
    if not done.cancelled():
        done.exception()
