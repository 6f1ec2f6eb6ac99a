"""The response cache's place in the life of a request: asked after the limits, before a place at an engine is taken.

It is asked for the models that the settings name, and where a request says `x-forebay-cache: use`; a request passes it
by with `x-forebay-cache: bypass` or `cache-control: no-store` (or `no-cache`), where its answer is drawn anew each
time, and where its body is large: taking that apart would hold up others. The answer says what came of it: `hit`,
`miss` or `bypass`. Of identical requests at once one is generated.
"""

import asyncio
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Literal

import msgspec

from forebay.gateway.exchange import Exchange
from forebay.policy.cache import Entries, Entry, cache_key
from forebay.policy.flights import Flights, Seat, Told, Turn
from forebay.policy.verdict import Lease, Outcome
from forebay.room import Held
from forebay.store.cache_redis import SharedEntries
from forebay.wire.body import LARGE_BYTES
from forebay.wire.canonical import canonical
from forebay.wire.replay import id_of, is_complete, with_id

CacheState = Literal["", "hit", "miss", "bypass"]
ASK_HEADER = b"x-forebay-cache"
EVERY_MODEL = "*"
_LINES = {state: b"x-forebay-cache: %s\r\n" % state.encode() for state in ("hit", "miss", "bypass")}


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What is cached, for how long, in how much memory: seconds, bytes. `wait_s` is the longest wait for another's
    answer."""

    models: frozenset[str]
    sampled: bool
    ttl_s: float
    max_bytes: int
    wait_s: float


class Caching:
    """The entries of this gateway, those shared with others, and the flights under way."""

    def __init__(self, limits: CacheLimits, shared: SharedEntries | None = None) -> None:
        self.limits = limits
        self.entries = Entries(limits.max_bytes, limits.ttl_s)
        self.flights = Flights()
        self.shared = shared

    def __repr__(self) -> str:
        return f"<Caching {self.entries!r} {self.flights!r}>"

    def change(self, limits: CacheLimits) -> None:
        """Work by other limits from now on."""
        self.limits = limits
        self.entries.resize(limits.max_bytes, limits.ttl_s)

    def describe(self) -> dict[str, Any]:
        entries = self.entries
        return {"entries": len(entries), "bytes": entries.bytes, "evictions": entries.evictions}

    def steps(self, exchange: Exchange, now: float) -> Generator[Awaitable[Any], Any, Entry | None]:
        """The answer, if it is known or about to be; None where an engine is to be asked."""
        if not self._is_wanted(exchange):
            return None
        key = self._key(exchange)
        if key is None:
            _say(exchange, "bypass")
            return None
        known = self.entries.get(key, now)
        if known is None:
            known = yield from self._from_others(exchange, key)
        _say(exchange, "miss" if known is None else "hit")
        return known

    def _is_wanted(self, exchange: Exchange) -> bool:
        if not exchange.route.cacheable:
            return False
        models = self.limits.models
        return EVERY_MODEL in models or exchange.model in models or _asked(exchange) == b"use"

    def _key(self, exchange: Exchange) -> bytes | None:
        """What exactly is asked; None where the cache is to be passed by."""
        if _asked(exchange) == b"bypass" or _is_private(exchange.headers.get(b"cache-control")):
            return None
        if len(exchange.body) > LARGE_BYTES:
            return None
        assert exchange.demand is not None
        assert exchange.principal is not None
        stream = exchange.demand.stream
        try:
            asked = canonical(exchange.body, stream=stream)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return None
        if exchange.route.samples and not asked.deterministic and not self.limits.sampled:
            return None
        return cache_key(exchange.principal.tenant, exchange.model, exchange.route.path, asked.text, stream=stream)

    def _from_others(self, exchange: Exchange, key: bytes) -> Generator[Awaitable[Any], Any, Entry | None]:
        """The answer that another request is about to have, here or at another gateway; None where there is none."""
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        seat = self.flights.join(key, partial(_tell, told))
        if seat is None:
            return None
        exchange.leases.append(seat)
        if not seat.leads:
            exchange.steps.append((monotonic(), "cache", "waits"))
            yield asyncio.wait((told,), timeout=self.limits.wait_s)
            if not told.done():
                seat.leave()
                return None
            if (answer := told.result()) is not Turn.LEAD:
                return answer if isinstance(answer, Entry) else None
        if self.shared is not None:
            found: tuple[Entry, float] | None = yield self.shared.find(key, self.limits.wait_s)
            if found is not None:
                entry, left_s = found
                self.entries.put(key, entry, monotonic(), left_s)
                seat.deliver(entry)
                return entry
            exchange.leases.append(Lease(partial(_let_go, self.shared, key)))
        exchange.recording = Recording(self, seat)
        return None

    def keep(self, seat: Seat, entry: Entry, now: float) -> None:
        """A leader's answer is complete: keep it, and give it to those who wait."""
        self.entries.put(seat.key, entry, now)
        if self.shared is not None:
            self.shared.put(seat.key, entry, self.limits.ttl_s)
        seat.deliver(entry)


class Recording:
    """A leader's answer as it passes, until it is complete or too long to be kept."""

    __slots__ = ("_blocks", "_caching", "_most", "_seat", "_size")

    def __init__(self, caching: Caching, seat: Seat) -> None:
        self._caching = caching
        self._seat = seat
        self._blocks: list[Held] = []
        self._most = caching.entries.largest_bytes  # kept here: a reload may change it midway
        self._size = 0

    def take(self, block: Held) -> None:
        """Keep what is about to reach the client."""
        self._size += len(block)
        if self._size <= self._most:
            self._blocks.append(block)
        else:
            self._blocks.clear()

    def complete(self, exchange: Exchange, now: float) -> None:
        """The answer came to its proper end."""
        body, demand = b"".join(self._blocks), exchange.demand
        assert demand is not None
        if body and is_complete(body, stream=demand.stream, choices=demand.n):
            answer_id = id_of(body, stream=demand.stream)
            self._caching.keep(self._seat, Entry(body, demand.stream, answer_id, exchange.usage), now)


def replay(exchange: Exchange, entry: Entry) -> None:
    """Send a known answer, under an id of its own."""
    exchange.usage = entry.usage
    body = with_id(entry.body, entry.answer_id, exchange.engine_id)
    if not entry.stream:
        exchange.client.respond(exchange, 200, b"application/json", body)
        return
    exchange.client.start_stream(exchange, body)
    exchange.client.end_stream(b"")


def _asked(exchange: Exchange) -> bytes:
    """What the request itself says of the cache."""
    return exchange.headers.get(ASK_HEADER, b"").lower()


def _say(exchange: Exchange, state: CacheState) -> None:
    exchange.cache_state = state
    exchange.steps.append((monotonic(), "cache", state))
    exchange.lines += _LINES[state]


def _tell(future: "asyncio.Future[Told]", told: Told) -> None:
    if not future.done():
        future.set_result(told)


def _let_go(shared: SharedEntries, key: bytes, held: int, outcome: Outcome, now: float) -> None:
    shared.let_go(key)


def _is_private(cache_control: bytes | None) -> bool:
    if cache_control is None:
        return False
    return not {b"no-store", b"no-cache"}.isdisjoint(part.strip() for part in cache_control.lower().split(b","))
