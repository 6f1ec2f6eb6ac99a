"""Conversations in the database, and whose turn it is in one. On SQLite and PostgreSQL.

A conversation grows by one question and its answer at a time, stored together. Who wants to add to it takes a number
(`arrive`), waits until no lower one is left (`is_first`), and gives it up with what was said, or without (`finish`,
`leave`). A number holds for a time, by the database's clock, and must be renewed: those of a gateway that died expire,
and are taken away by who waits behind them. Whoever finds its own gone stores nothing.

Every transaction that writes does so first: in SQLite a reader that turned into a writer could be refused.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from forebay.store.clock import WallClock
from forebay.store.database import Database
from forebay.store.tables import conversation_messages as messages
from forebay.store.tables import conversation_turns as turns
from forebay.store.tables import conversations

PAGE = 100
MOST_HISTORY_BYTES = 8 * 1024 * 1024  # of the newest messages; no model's context holds more
_AT_ONCE = 100  # rows fetched
_EXPIRED = turns.c.expires_at < WallClock()


class UnknownConversation(Exception):
    """There is no such conversation of this tenant, or not any more."""


class TooManyConversations(Exception):
    """The tenant has as many as it may."""


class TooManyWaiting(Exception):
    """As many wait for their turn in the conversation as may."""


class LostTurn(Exception):
    """The number expired and was taken away: nothing has been stored."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation; times are wall-clock seconds, `messages` counts."""

    id: str
    tenant: str
    model: str
    system: str | None
    metadata: dict[str, str]
    created_at: float
    ttl_s: float
    expires_at: float
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message. The figures are those of an answer: its prompt, and how many messages that left out."""

    role: str
    content: str
    created_at: float
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    trimmed: int | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """A number in the line of a conversation; `first` is whether nobody was there before."""

    conversation: str
    number: int
    first: bool


def new_id(wall: float) -> str:
    """An id that sorts by the time it was made at."""
    return f"conv_{int(wall * 1000):012x}{secrets.token_hex(10)}"


class ConversationStore:
    """The conversations of one database. All of it may take a while; `wall` is wall-clock seconds."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine

    def create(self, new: Conversation, most: int) -> None:
        """Add a conversation. Raises `TooManyConversations`."""
        row = {**asdict(new), "metadata": msgspec.json.encode(new.metadata).decode(), "turns": 0}
        mine = select(func.count()).where(conversations.c.tenant == new.tenant)
        with self._engine.begin() as connection:
            connection.execute(insert(conversations), row)
            alive = mine.where(conversations.c.expires_at > new.created_at)
            if connection.execute(alive).scalar_one() > most:
                raise TooManyConversations

    def page(self, tenant: str, wall: float, after: str = "", limit: int = PAGE) -> list[Conversation]:
        """A tenant's conversations, the newest first, from the one behind `after`."""
        chosen = select(conversations).where(conversations.c.tenant == tenant, conversations.c.expires_at > wall)
        chosen = chosen.where(conversations.c.id < after) if after else chosen
        chosen = chosen.order_by(conversations.c.id.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [_conversation(row) for row in connection.execute(chosen).mappings()]

    def show(
        self, tenant: str, conversation: str, wall: float, after: int = -1, limit: int = PAGE
    ) -> tuple[Conversation, list[Message]]:
        """One conversation and its messages from the one behind `after`. Raises `UnknownConversation`."""
        chosen = select(messages).where(messages.c.conversation == conversation, messages.c.position > after)
        with self._engine.connect() as connection:
            found = connection.execute(select(conversations).where(_mine(tenant, conversation, wall)))
            row = found.mappings().one_or_none()
            if row is None:
                raise UnknownConversation
            said = connection.execute(chosen.order_by(messages.c.position).limit(limit)).mappings()
            return _conversation(row), [_message(one) for one in said]

    def delete(self, tenant: str, conversation: str, wall: float) -> None:
        """Take a conversation away with all that was said. Raises `UnknownConversation`."""
        with self._engine.begin() as connection:
            gone = connection.execute(delete(conversations).where(_mine(tenant, conversation, wall)))
            if gone.rowcount == 0:
                raise UnknownConversation

    def sweep(self, wall: float, most: int) -> int:
        """Take some conversations away whose time is over; return how many."""
        over = conversations.c.expires_at <= wall
        some = select(conversations.c.id).where(over).limit(most)
        with self._engine.begin() as connection:  # asked again: one may have been added to meanwhile
            return connection.execute(delete(conversations).where(conversations.c.id.in_(some), over)).rowcount

    # Turns
    def arrive(self, tenant: str, conversation: str, wall: float, lease_s: float, most_waiting: int) -> Turn:
        """Take the next number. Raises `UnknownConversation` or `TooManyWaiting`."""
        here = turns.c.conversation == conversation
        later = {"turns": conversations.c.turns + 1, "expires_at": wall + conversations.c.ttl_s}
        taken = update(conversations).where(_mine(tenant, conversation, wall)).values(later)
        with self._engine.begin() as connection:
            number = connection.execute(taken.returning(conversations.c.turns)).scalar_one_or_none()
            if number is None:
                raise UnknownConversation
            connection.execute(delete(turns).where(here, _EXPIRED))
            before: int = connection.execute(select(func.count()).where(here)).scalar_one()
            if before > most_waiting:
                raise TooManyWaiting
            row = {"conversation": conversation, "number": number, "expires_at": WallClock() + lease_s}
            connection.execute(insert(turns).values(row))
        return Turn(conversation, number, first=before == 0)

    def is_first(self, turn: Turn) -> bool:
        """Whether no lower number is left. Raises `LostTurn`."""
        here = turns.c.conversation == turn.conversation
        lowest = select(turns.c.number, _EXPIRED.label("expired")).where(here).order_by(turns.c.number).limit(1)
        with self._engine.connect() as connection:
            row = connection.execute(lowest).one_or_none()
        if row is None or row.number > turn.number:
            raise LostTurn
        if row.number < turn.number and row.expired:
            with self._engine.begin() as connection:
                connection.execute(delete(turns).where(here, turns.c.number < turn.number, _EXPIRED))
            return self.is_first(turn)
        return bool(row.number == turn.number)

    def renew(self, held: Iterable[Turn], lease_s: float) -> None:
        """Hold turns for longer."""
        for turn in held:
            with self._engine.begin() as connection:
                connection.execute(update(turns).where(_this(turn)).values(expires_at=WallClock() + lease_s))

    def leave(self, turn: Turn) -> None:
        """Give a turn up; nothing was said."""
        with self._engine.begin() as connection:
            connection.execute(delete(turns).where(_this(turn)))

    def history(self, turn: Turn) -> tuple[Conversation, list[Message]]:
        """The conversation and its newest messages, the oldest of them first. Raises `UnknownConversation`."""
        mine = conversations.c.id == turn.conversation
        chosen = select(messages).where(messages.c.conversation == turn.conversation)
        newest_first = chosen.order_by(messages.c.position.desc())
        with self._engine.connect().execution_options(yield_per=_AT_ONCE) as connection:
            row = connection.execute(select(conversations).where(mine)).mappings().one_or_none()
            if row is None:
                raise UnknownConversation
            with connection.execute(newest_first).mappings() as rows:
                return _conversation(row), _newest(map(_message, rows))

    def finish(self, turn: Turn, question: Message, answer: Message) -> int:
        """Store what was said and give the turn up; return the answer's position. Raises `UnknownConversation` or
        `LostTurn`."""
        grown = {
            "messages": conversations.c.messages + 2,
            "expires_at": answer.created_at + conversations.c.ttl_s,
        }
        grow = update(conversations).where(conversations.c.id == turn.conversation).values(grown)
        with self._engine.begin() as connection:
            count = connection.execute(grow.returning(conversations.c.messages)).scalar_one_or_none()
            if count is None:
                raise UnknownConversation
            if connection.execute(delete(turns).where(_this(turn))).rowcount == 0:
                raise LostTurn
            _add(connection, turn.conversation, {count - 2: question, count - 1: answer})
        return int(count - 1)


def _mine(tenant: str, conversation: str, wall: float) -> Any:
    mine = (conversations.c.id == conversation) & (conversations.c.tenant == tenant)
    return mine & (conversations.c.expires_at > wall)


def _this(turn: Turn) -> Any:
    return (turns.c.conversation == turn.conversation) & (turns.c.number == turn.number)


def _add(connection: Connection, conversation: str, said: Mapping[int, Message]) -> None:
    rows = [{**asdict(one), "conversation": conversation, "position": position} for position, one in said.items()]
    connection.execute(insert(messages), rows)


def _newest(newest_first: Iterable[Message]) -> list[Message]:
    size = 0

    def fits(message: Message) -> bool:
        nonlocal size
        size += len(message.content.encode())
        return size <= MOST_HISTORY_BYTES

    found = list(takewhile(fits, newest_first))
    return found[::-1][len(found) % 2 :]  # no answer without its question


def _conversation(row: RowMapping) -> Conversation:
    told = {name: row[name] for name in Conversation.__slots__ if name != "metadata"}
    return Conversation(**told, metadata=msgspec.json.decode(row["metadata"]))


def _message(row: RowMapping) -> Message:
    return Message(**{name: row[name] for name in Message.__slots__})
