"""Cached answers in Redis or Valkey, shared by gateways; and which of them generates an answer that none has yet.

It is a help, never a need: what takes longer than `timeout_s`, or fails, is a miss, and after a failure nothing is
asked for a second. One atomic script answers a look-up: the entry with the milliseconds it has left; or nothing, and
whether this gateway is the one to generate it now, which others wait for.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine
from time import monotonic
from typing import Any

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from forebay.policy.cache import Entry
from forebay.store.limits_script import AWAY, NONSENSE

log = logging.getLogger("forebay.store")

PAUSE_S = 1.0
MOST_OWED = 4096
POLL_S = 0.05
MOST_CONNECTIONS = 32
_ENTRY, _LEADER = b"forebay:cache:entry:", b"forebay:cache:leader:"
_FIND = """
local entry = redis.call('GET', KEYS[1])
if entry then return {entry, redis.call('PTTL', KEYS[1])} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {false, 1} end
return {false, redis.call('GET', KEYS[2]) == ARGV[1] and 1 or 0}
"""
_LET_GO = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class SharedEntries:
    """One gateway's way to the shared entries. Raises ValueError for a URL that is none."""

    def __init__(self, url: str, timeout_s: float) -> None:
        pool = BlockingConnectionPool.from_url(
            url.replace("valkey", "redis", 1) if url.startswith("valkey") else url,
            max_connections=MOST_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis.from_pool(pool)
        self._find = self._redis.register_script(_FIND)
        self._let_go = self._redis.register_script(_LET_GO)
        self._timeout_s = timeout_s
        self._leading: set[bytes] = set()
        self._owed: set[bytes] = set()  # to be let go of when it is there again
        self._name = secrets.token_hex(8)
        self._away_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures = 0

    def __repr__(self) -> str:
        return f"<SharedEntries {'away' if self.is_away else 'there'} failures={self.failures}>"

    @property
    def is_away(self) -> bool:
        return monotonic() < self._away_until

    async def find(self, key: bytes, wait_s: float) -> tuple[Entry, float] | None:
        """An entry and the seconds it has left; None where the caller is to generate the answer.

        While another gateway generates it, wait, but no longer than `wait_s`. Never raises.
        """
        until = monotonic() + wait_s
        while not self.is_away:
            try:
                async with asyncio.timeout(self._timeout_s):
                    found, number = await self._find(
                        [_ENTRY + key, _LEADER + key], [self._name, max(int(wait_s * 1000), 1)]
                    )
                self._unless_cancelled()
                entry = _read(found, number) if found is not None else None
            except asyncio.CancelledError:
                self._give_up(key)
                raise
            except (*AWAY, *NONSENSE) as failure:
                self._failed(failure)
                self._give_up(key)
                return None
            if self._owed:
                self._pay()
            if found is not None:
                return entry
            if number:
                self._leading.add(key)
                return None
            if monotonic() >= until:
                return None
            await asyncio.sleep(POLL_S)
        return None

    def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """Give an entry to all gateways, soon."""
        self._soon(key, self._put(key, msgspec.msgpack.encode(entry), max(int(ttl_s * 1000), 1)))
        self._leading.discard(key)

    def let_go(self, key: bytes) -> None:
        """Whatever this gateway was to generate, it will not: another may."""
        if key in self._leading:
            self._leading.discard(key)
            self._give_up(key)

    async def close(self) -> None:
        """Do what is still to be done, and end the connections."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def _give_up(self, key: bytes) -> None:
        """This gateway leads no more, if it does, perhaps without knowing: others would wait for its answer."""
        self._soon(key, self._let_go([_LEADER + key], [self._name]))

    def _owe(self, key: bytes) -> None:
        if len(self._owed) < MOST_OWED:
            self._owed.add(key)

    def _pay(self) -> None:
        owed, self._owed = self._owed, set()
        for key in owed - self._leading:
            self._give_up(key)

    def _unless_cancelled(self) -> None:
        """Raise the cancellation that was dropped on the way, if one was (see `Pipeline._wait`)."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError

    async def _put(self, key: bytes, value: bytes, ttl_ms: int) -> None:
        await self._redis.set(_ENTRY + key, value, px=ttl_ms)
        await self._let_go([_LEADER + key], [self._name])

    def _soon(self, key: bytes, call: Any) -> None:
        if self.is_away:
            call.close()
            self._owe(key)
            return
        self._begin(self._do(key, call))

    def _begin(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, key: bytes, call: Coroutine[Any, Any, Any]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await call
        except AWAY as failure:
            self._failed(failure)
            self._owe(key)

    async def _drop_idle(self) -> None:
        """The connections that nobody uses may be as dead as the one that failed."""
        with contextlib.suppress(*AWAY):
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    def _failed(self, failure: Exception) -> None:
        if not self.is_away:
            log.warning("the shared cache is away", extra={"why": str(failure) or type(failure).__name__})
            self._begin(self._drop_idle())
        self.failures += 1
        self._away_until = monotonic() + PAUSE_S


def _read(value: bytes, left_ms: int) -> tuple[Entry, float] | None:
    try:
        return msgspec.msgpack.decode(value, type=Entry), left_ms / 1000
    except msgspec.DecodeError:
        return None
