"""Conversations in the database, and turns in one. On SQLite and on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from time import time

import pytest
from sqlalchemy import func, select, update

from forebay.config.sources import load_settings
from forebay.store import conversations as store
from forebay.store.conversations import (
    Conversation,
    ConversationStore,
    LostTurn,
    Message,
    TooManyConversations,
    TooManyWaiting,
    Turn,
    UnknownConversation,
    new_id,
)
from forebay.store.database import Database
from forebay.store.tables import conversation_messages, conversation_turns
from forebay.store.turns import Turns, TurnTimeout

LEASE_S = 10.0
NOW = 1_000_000.0


@pytest.fixture
def kept(database: Database) -> ConversationStore:
    return ConversationStore(database)


def made(kept: ConversationStore, tenant: str = "acme", at: float = NOW, ttl_s: float = 100.0, most: int = 9) -> str:
    new = Conversation(new_id(at), tenant, "m", "Be brief.", {"a": "ä"}, at, ttl_s, at + ttl_s)
    kept.create(new, most)
    return new.id


def arrived(kept: ConversationStore, conversation: str, at: float = NOW, most: int = 9) -> Turn:
    return kept.arrive("acme", conversation, at, LEASE_S, most)


def said(kept: ConversationStore, turn: Turn, question: str, answer: str = "yes", at: float = NOW) -> int:
    return kept.finish(turn, Message("user", question, at), Message("assistant", answer, at, "stop", 7, 3, 0))


def test_a_conversation_comes_back_as_it_was_said(kept: ConversationStore) -> None:
    one = made(kept)
    assert said(kept, arrived(kept, one), "ünï\n'code'") == 1
    assert said(kept, arrived(kept, one), "more") == 3
    conversation, messages = kept.show("acme", one, NOW)
    assert (conversation.system, conversation.metadata, conversation.messages) == ("Be brief.", {"a": "ä"}, 4)
    assert [(m.position, m.role, m.content) for m in messages] == [
        (0, "user", "ünï\n'code'"),
        (1, "assistant", "yes"),
        (2, "user", "more"),
        (3, "assistant", "yes"),
    ]
    assert (messages[1].finish_reason, messages[1].prompt_tokens, messages[1].trimmed) == ("stop", 7, 0)
    assert messages[0].prompt_tokens is None
    _, rest = kept.show("acme", one, NOW, after=1, limit=1)
    assert [m.position for m in rest] == [2]


def test_no_tenant_sees_or_touches_another_ones(kept: ConversationStore) -> None:
    one = made(kept)
    with pytest.raises(UnknownConversation):
        kept.show("other", one, NOW)
    with pytest.raises(UnknownConversation):
        kept.delete("other", one, NOW)
    with pytest.raises(UnknownConversation):
        kept.arrive("other", one, NOW, LEASE_S, 9)
    assert kept.page("other", NOW) == []
    assert kept.show("acme", one, NOW)[0].id == one


def test_pages_are_the_newest_first(kept: ConversationStore) -> None:
    ids = [made(kept, at=NOW + number) for number in range(5)]
    first = kept.page("acme", NOW, limit=2)
    rest = kept.page("acme", NOW, after=first[-1].id)
    assert [one.id for one in first + rest] == ids[::-1]


def test_what_is_deleted_is_gone_with_all_that_was_said(kept: ConversationStore, database: Database) -> None:
    one = made(kept)
    said(kept, arrived(kept, one), "x")
    late = arrived(kept, one)
    kept.delete("acme", one, NOW)
    with database.engine.connect() as connection:
        for table in (conversation_messages, conversation_turns):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 0
    with pytest.raises(UnknownConversation):
        said(kept, late, "y")
    with pytest.raises(UnknownConversation):
        kept.history(late)
    with pytest.raises(LostTurn):
        kept.is_first(late)


def test_a_conversation_lives_on_from_its_last_message_and_is_swept_after(kept: ConversationStore) -> None:
    used, unused = made(kept), made(kept)
    said(kept, arrived(kept, used, NOW + 60), "x", at=NOW + 90)
    assert [one.id for one in kept.page("acme", NOW + 150)] == [used]
    with pytest.raises(UnknownConversation):
        arrived(kept, unused, NOW + 150)
    assert kept.sweep(NOW + 150, 1) == 1
    assert kept.sweep(NOW + 150, 1) == 0
    assert kept.show("acme", used, NOW + 150)[0].expires_at == NOW + 190


def test_a_tenant_has_so_many_and_no_more_of_those_that_live(kept: ConversationStore) -> None:
    first = made(kept, most=2)
    made(kept, most=2, at=NOW + 50)
    with pytest.raises(TooManyConversations):
        made(kept, most=2, at=NOW + 60)
    made(kept, tenant="other", most=1)
    made(kept, most=2, at=NOW + 120)  # the first one's time is over
    assert first not in [one.id for one in kept.page("acme", NOW + 120)]


def test_turns_come_in_the_order_of_arrival(kept: ConversationStore) -> None:
    one = made(kept)
    first, second, third = (arrived(kept, one) for _ in range(3))
    assert (first.first, second.first) == (True, False)
    assert not kept.is_first(second)
    kept.leave(second)
    assert not kept.is_first(third)
    said(kept, first, "x")
    assert kept.is_first(third)


def test_no_more_wait_than_may(kept: ConversationStore) -> None:
    one = made(kept)
    turns = [arrived(kept, one, most=1) for _ in range(2)]
    with pytest.raises(TooManyWaiting):
        arrived(kept, one, most=1)
    kept.leave(turns[0])
    assert not arrived(kept, one, most=1).first


def later(database: Database, seconds: float) -> None:
    """Let so much time go by for those who hold turns: the database's clock, which no test can turn, says how much."""
    with database.engine.begin() as connection:
        turns = conversation_turns
        connection.execute(update(turns).values(expires_at=turns.c.expires_at - seconds))


def test_a_turn_that_is_not_renewed_passes_on_and_its_holder_stores_nothing(
    kept: ConversationStore, database: Database
) -> None:
    one = made(kept)
    frozen, waiting = arrived(kept, one), arrived(kept, one)
    later(database, LEASE_S + 1)
    kept.renew([waiting], LEASE_S)
    assert kept.is_first(waiting)
    with pytest.raises(LostTurn):
        said(kept, frozen, "too late")
    said(kept, waiting, "in time")
    assert [m.content for m in kept.show("acme", one, NOW)[1]] == ["in time", "yes"]


def test_a_turn_that_is_renewed_is_kept_and_a_newcomer_finds_it(kept: ConversationStore, database: Database) -> None:
    one = made(kept)
    held = arrived(kept, one)
    later(database, 9)
    kept.renew([held], LEASE_S)
    later(database, 6)
    newcomer = arrived(kept, one)
    assert not newcomer.first
    assert not kept.is_first(newcomer)
    said(kept, held, "x")
    later(database, LEASE_S + 1)
    assert arrived(kept, one).first, "the newcomer's own has expired by now"


def test_the_history_is_the_newest_that_any_model_could_hold(
    kept: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_HISTORY_BYTES", 2500)
    one = made(kept)
    for number in range(4):
        said(kept, arrived(kept, one), f"{number}" * 500, "a" * 500)
    conversation, history = kept.history(arrived(kept, one))
    assert conversation.messages == 8
    told = [(message.role, message.content[0]) for message in history]
    assert told == [("user", "2"), ("assistant", "a"), ("user", "3"), ("assistant", "a")]


def test_writers_at_once_leave_each_number_and_position_once(kept: ConversationStore) -> None:
    one = made(kept, at=time())

    def post(number: int) -> int:
        turn = kept.arrive("acme", one, time(), LEASE_S, 99)
        while not kept.is_first(turn):
            pass
        said(kept, turn, f"q{number}", f"a{number}", at=time())
        return turn.number

    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(post, range(20)))
    assert sorted(numbers) == list(range(1, 21))
    _, messages = kept.show("acme", one, time())
    assert [m.position for m in messages] == list(range(40))
    pairs = [(messages[at].content, messages[at + 1].content) for at in range(0, 40, 2)]
    assert sorted(pairs) == sorted((f"q{number}", f"a{number}") for number in range(20))


@pytest.mark.parametrize("off_s", [3600.0, -3600.0], ids=["an hour ahead", "an hour behind"])
async def test_a_machine_whose_clock_is_off_neither_takes_a_turn_from_another_nor_keeps_one(
    off_s: float, database: Database, kept: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B12: who holds a turn, and for how long, is told by the database's clock."""
    settings, _ = load_settings({"conversation_lease_s": LEASE_S, "request_timeout_s": 1}, env={})
    one = made(kept, at=time(), ttl_s=100_000.0)
    here, elsewhere = Turns(database, lambda: settings), Turns(database, lambda: settings)
    held = await here.take("acme", one)
    with monkeypatch.context() as patched:
        patched.setattr("forebay.store.turns.time", lambda: time() + off_s)
        with pytest.raises(TurnTimeout):
            await elsewhere.take("acme", one)
        await elsewhere.close()
        await here.finish(held, Message("user", "q", time()), Message("assistant", "a", time()))
        other = Turns(database, lambda: settings)
        left_behind = await other.take("acme", one)
    with pytest.raises(TurnTimeout):
        await here.take("acme", one)
    await here.close()
    later(database, LEASE_S + 1)
    again = Turns(database, lambda: settings)
    await again.take("acme", one)
    assert left_behind.number == 3
