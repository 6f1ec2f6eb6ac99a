"""Conversations without waiting for the database: each call in a thread; and the lines of those who want to add to one.

A number is taken at once and decides the order, among all gateways. Only the first of this gateway's asks the database
whether it is its turn: the others wait for those here. What is held here is renewed until it is given up; giving up
needs nobody to wait for it, and is done even where the caller has left.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, time
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from forebay.config.settings import Settings
from forebay.store.conversations import ConversationStore, Message, Turn
from forebay.store.database import Database, why

log = logging.getLogger("forebay.conversations")

THREADS = 2  # of the database's four connections; keys are looked up with the others
POLL_S = 0.1  # where another gateway's turn is before ours
SWEEP_EVERY_S = 60.0
SWEPT_AT_ONCE = 100
CLOSE_S = 2.0
P = ParamSpec("P")
T = TypeVar("T")


class TurnTimeout(Exception):
    """The turn did not come in time."""


class Turns:
    """See the module's text. `run` has to be running."""

    def __init__(self, database: Database, settings: Callable[[], Settings]) -> None:
        self.store = ConversationStore(database)
        self._settings = settings
        self._threads = ThreadPoolExecutor(THREADS, "forebay-conversations")
        self._held: dict[str, dict[int, Turn]] = {}  # by conversation and number: under way, or waiting
        self._news = asyncio.Event()  # one was given up here; another event each time
        self._endings: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Turns {sum(map(len, self._held.values()))} in {len(self._held)} conversations>"

    async def do(self, what: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One call of the store. Raises what that raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: what(*args, **kwargs))

    async def take(self, tenant: str, conversation: str) -> Turn:
        """Wait for a turn. Raises what `ConversationStore.arrive` and `is_first` raise, or `TurnTimeout`."""
        settings = self._settings()
        lease_s, most_waiting = settings.conversation_lease_s, settings.max_waiting_posts
        arriving = asyncio.ensure_future(
            self.do(self.store.arrive, tenant, conversation, time(), lease_s, most_waiting)
        )
        try:
            turn = await asyncio.shield(arriving)
        except asyncio.CancelledError:
            arriving.add_done_callback(self._unwanted)
            raise
        self._hold(turn)
        try:
            await self._wait(turn, monotonic() + settings.request_timeout_s)
        except BaseException:
            self.give_up(turn)
            raise
        return turn

    def give_up(self, turn: Turn) -> None:
        """Leave a turn without a word."""
        self._end(turn, self.do(self.store.leave, turn))

    def finish(self, turn: Turn, question: Message, answer: Message) -> "asyncio.Task[int]":
        """Store what was said; the task tells the answer's position, and goes on where nobody waits for it."""
        return self._end(turn, self.do(self.store.finish, turn, question, answer))

    async def run(self) -> None:
        """Renew what is held and sweep away what is over, for as long as the gateway runs."""
        swept_at = monotonic() - SWEEP_EVERY_S
        while True:
            try:
                await self._renew()
                if monotonic() - swept_at >= SWEEP_EVERY_S:
                    swept_at = monotonic()
                    while await self.do(self.store.sweep, time(), SWEPT_AT_ONCE) == SWEPT_AT_ONCE:
                        pass
            except SQLAlchemyError as failure:
                log.warning("conversations cannot be kept up just now", extra={"why": why(failure)})
            await asyncio.sleep(self._settings().conversation_lease_s / 4)

    async def close(self) -> None:
        """Return when all that was begun is stored, or it has taken long."""
        until = monotonic() + CLOSE_S
        while self._held and monotonic() < until:
            await asyncio.sleep(0.01)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _hold(self, turn: Turn) -> None:
        self._held.setdefault(turn.conversation, {})[turn.number] = turn

    def _unwanted(self, arriving: "asyncio.Future[Turn]") -> None:
        """Whoever wanted the turn has left before there was one."""
        if not arriving.cancelled() and arriving.exception() is None:
            self._hold(arriving.result())
            self.give_up(arriving.result())

    async def _renew(self) -> None:
        held = [turn for turns in self._held.values() for turn in turns.values()]
        if held:
            await self.do(self.store.renew, held, self._settings().conversation_lease_s)

    async def _wait(self, turn: Turn, until: float) -> None:
        first = turn.first
        while not first:
            news = self._news
            if turn.number == min(self._held[turn.conversation]):
                first = await self.do(self.store.is_first, turn)
                if first:
                    return
            try:
                await asyncio.wait_for(news.wait(), POLL_S)
            except TimeoutError:
                if monotonic() > until:
                    raise TurnTimeout from None

    def _end(self, turn: Turn, ending: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(ending)
        self._endings.add(task)
        task.add_done_callback(lambda _: self._ended(turn, task))
        return task

    def _ended(self, turn: Turn, task: "asyncio.Task[Any]") -> None:
        self._endings.discard(task)
        here = self._held[turn.conversation]
        del here[turn.number]
        if not here:
            del self._held[turn.conversation]
        self._news.set()
        self._news = asyncio.Event()
        if not task.cancelled() and (failure := task.exception()) is not None:
            told = why(failure) if isinstance(failure, SQLAlchemyError) else type(failure).__name__
            log.warning("a turn was not stored", extra={"conversation": turn.conversation, "why": told})
