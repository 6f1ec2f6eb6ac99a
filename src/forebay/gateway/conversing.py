"""One post to a conversation, from its turn to its answer being stored.

    wait for the turn → what of the history fits → ask the engine → pass the answer on → store both → say so

The engine is asked for a stream in any case. An answer that comes to its end is stored before its end is told: who has
seen that knows that the conversation goes on from there. Where the caller leaves midway, what was generated until then
is stored as an answer whose `finish_reason` is `interrupted`. Where the engine fails, nothing is: the post can be
repeated.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import time
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from forebay.gateway.inner import Answered, InnerCall, Refused
from forebay.gateway.routes import ROUTES, Route
from forebay.policy.auth import Principal
from forebay.policy.trimming import choose_cut, is_settled, most_tokens, room_for_prompt
from forebay.refusals import Conflict, ContextTooLong, NotFound, Unavailable
from forebay.store.conversations import (
    Conversation,
    LostTurn,
    Message,
    TooManyConversations,
    TooManyWaiting,
    Turn,
    UnknownConversation,
)
from forebay.store.turns import Turns, TurnTimeout
from forebay.wire.sse import events_in
from forebay.wire.transcript import Chunk, Transcript

if TYPE_CHECKING:
    from forebay.config.settings import Settings
    from forebay.gateway.pipeline import Pipeline

CHAT, TOKENIZE = (next(route for route in ROUTES if route.name == name) for name in ("chat_completions", "tokenize"))
_DONE = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Post:
    """What somebody says in a conversation; `options` are the fields of a chat completion that go with it."""

    principal: Principal
    conversation: str
    content: str
    options: Mapping[str, Any]
    headers: Mapping[bytes, bytes]
    address: str


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What the engine is asked: the messages behind the first `trimmed`, of so many tokens at most."""

    messages: list[dict[str, str]]
    trimmed: int
    tokens: int | None
    counted: bool


class Talk:
    """One post. Iterate `events()` once; with the first, `lines` are there for the head; `reply` when it is stored."""

    def __init__(self, pipeline: "Pipeline", turns: Turns, settings: "Settings", post: Post) -> None:
        self.reply: Message | None = None
        self.lines = b""
        self._pipeline = pipeline
        self._turns = turns
        self._settings = settings
        self._post = post
        self._asked_at = 0.0
        self._prompt: _Prompt | None = None
        self._said = Transcript(chat=True)
        self._usage: dict[str, Any] = {}
        self._storing: asyncio.Task[int] | None = None

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as a chat's stream. Raises `Refused` before the first block, and `Refusal` there or where it
        cannot be stored; who closes it leaves."""
        with told():
            turn = await self._turns.take(self._post.principal.tenant, self._post.conversation)
        try:
            with told():
                conversation, history = await self._turns.do(self._turns.store.history, turn)
            self._check_room(conversation)
            async with aclosing(self._answer(conversation, history)) as blocks:
                async for block in blocks:
                    if kept := self._take(block):
                        yield kept
            if not self._said.over:
                yield await self._store(turn)
        finally:
            if self._storing is None:
                self._break_off(turn)

    def _check_room(self, conversation: Conversation) -> None:
        if conversation.messages + 2 > self._settings.max_conversation_messages:
            full = f"The conversation has {conversation.messages} messages and may have no more; begin another one."
            raise Conflict(full, code="conversation_full", should_retry=False)

    async def _answer(self, conversation: Conversation, history: Sequence[Message]) -> AsyncGenerator[bytes, None]:
        """Ask, and once more with an exact count where it turns out that we were wrong about what fits."""
        for exactly in (False, True):
            prompt = self._prompt = await self._choose(conversation, history, exactly=exactly)
            self._asked_at = time()
            call = self._call(CHAT, self._chat(conversation, prompt))
            try:
                async with aclosing(call.events()) as blocks:
                    async for block in blocks:
                        self.lines = call.exchange.lines
                        yield block
            except Refused as refused:
                if prompt.counted or _code(refused.answered) != ContextTooLong.code:
                    raise
            else:
                return

    async def _choose(self, conversation: Conversation, history: Sequence[Message], *, exactly: bool) -> _Prompt:
        """How much of the history the engine is told."""
        context = self._context(conversation)
        before = conversation.messages - len(history)
        last = history[-1] if history else None
        cut = max(((last.trimmed or 0) - before) // 2, 0) if last is not None else 0
        tokens = most_tokens(conversation.system or "", self._post.content, last)
        if context is None:
            return _Prompt(self._messages(conversation, history), before, None, counted=True)
        room = room_for_prompt(context, self._post.options.get("max_tokens") or self._settings.default_max_tokens)
        counted = exactly or tokens is None or not is_settled(tokens, cut, room)
        if counted:
            cut, tokens = await self._count(conversation, history, cut, room)
        return _Prompt(self._messages(conversation, history[2 * cut :]), before + 2 * cut, tokens, counted)

    async def _count(
        self, conversation: Conversation, history: Sequence[Message], cut: int, room: int
    ) -> tuple[int, int]:
        """How many turns to leave out, and what the rest comes to. Raises `ContextTooLong`."""
        fixed = len((conversation.system or "").encode()) + len(self._post.content.encode())
        said = [len(message.content.encode()) for message in history]
        counts: dict[int, int] = {}
        choosing = choose_cut(fixed, [sum(said[at : at + 2]) for at in range(0, len(said), 2)], cut, room)
        try:
            cut = next(choosing)
            while True:
                counts[cut] = await self._tokens(conversation, history[2 * cut :])
                cut = choosing.send(counts[cut])
        except StopIteration as chosen:
            if chosen.value is None:
                raise ContextTooLong(
                    f"The message, with what the system is told, has {min(counts.values())} tokens, and {room} of the "
                    "model's context are left beside the answer. Shorten it, or lower max_tokens.",
                    param="content",
                ) from None
            return chosen.value, counts[chosen.value]

    async def _tokens(self, conversation: Conversation, history: Sequence[Message]) -> int:
        """What a prompt comes to by the engine's own count, in the model's own template."""
        body = {"model": conversation.model, "messages": self._messages(conversation, history)}
        answered = await self._call(TOKENIZE, body).answer()
        if not answered.ok:
            raise Refused(answered)
        count: int = msgspec.json.decode(answered.body)["count"]
        return count

    def _context(self, conversation: Conversation) -> int | None:
        return self._pipeline.replicas.context_tokens(self._pipeline.resolving.meant_by(conversation.model)[0])

    def _chat(self, conversation: Conversation, prompt: _Prompt) -> dict[str, Any]:
        options = dict(self._post.options)
        context = self._context(conversation)
        if context is not None and prompt.tokens is not None and "max_tokens" in options:
            options["max_tokens"] = max(min(options["max_tokens"], context - prompt.tokens), 1)
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": conversation.model, "messages": prompt.messages, **stream, **options}

    def _messages(self, conversation: Conversation, history: Sequence[Message]) -> list[dict[str, str]]:
        system = [{"role": "system", "content": conversation.system}] if conversation.system else []
        said = [{"role": message.role, "content": message.content} for message in history]
        return [*system, *said, {"role": "user", "content": self._post.content}]

    def _call(self, route: Route, body: dict[str, Any]) -> InnerCall:
        post = self._post
        headers = {**post.headers, b"x-session-id": post.conversation.encode()}
        text = msgspec.json.encode(body)
        return InnerCall(self._pipeline, post.principal, route, text, address=post.address, headers=headers)

    def _take(self, block: bytes) -> bytes:
        """Read a block; return what of it is passed on at once: all but the end."""
        kept = []
        for event in events_in(block):
            chunk = self._said.read_event(event)
            if chunk is not None and chunk.usage is not None:
                self._usage = chunk.usage
            is_end = event.startswith(_DONE) or (chunk is not None and not chunk.choices)
            if self._said.over or not is_end:
                kept.append(event)
        return b"".join(kept)

    async def _store(self, turn: Turn) -> bytes:
        """Store what was said, and tell how it ended."""
        answer = self._spoken(self._said.finish_reason or "stop")
        self._storing = self._turns.finish(turn, self._question(), answer)
        with told():
            position = await asyncio.shield(self._storing)
        self.reply = replace(answer, position=position)
        frame = self._said.frame or Chunk()
        end = {
            "id": frame.id,
            "object": frame.object,
            "created": frame.created,
            "model": frame.model,
            "choices": [],
            "usage": self._usage or None,
            "conversation": {"id": turn.conversation, "position": position, "trimmed": answer.trimmed},
        }
        return b"data: %s\n\n%s\n\n" % (msgspec.json.encode(end), _DONE)

    def _break_off(self, turn: Turn) -> None:
        """It came to no end: keep what the caller has seen, unless the engine failed."""
        if self._said.whole_text and not self._said.over:
            self._storing = self._turns.finish(turn, self._question(), self._spoken("interrupted"))
        else:
            self._turns.give_up(turn)

    def _question(self) -> Message:
        return Message("user", self._post.content, self._asked_at)

    def _spoken(self, finish_reason: str) -> Message:
        text = self._said.whole_text.replace("\0", "\ufffd")  # PostgreSQL takes no NUL
        prompt, completion = self._usage.get("prompt_tokens"), self._usage.get("completion_tokens")
        trimmed = self._prompt.trimmed if self._prompt is not None else 0
        return Message("assistant", text, time(), finish_reason, prompt, completion, trimmed)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Says what the store raises as a refusal."""
    try:
        yield
    except UnknownConversation:
        gone = "There is no conversation with this id, or not any more."
        raise NotFound(gone, code="conversation_not_found") from None
    except TooManyConversations:
        many = "There are as many conversations as one tenant may have; delete some."
        raise Conflict(many, code="too_many_conversations", should_retry=False) from None
    except (TooManyWaiting, TurnTimeout):
        busy = "Too many posts to this conversation wait for their turn. Try again shortly."
        raise Conflict(busy, code="conversation_busy", retry_after_s=2) from None
    except LostTurn:
        raise Conflict(
            "Another post took this one's turn: it is not stored. Post it again.", code="conversation_lost"
        ) from None
    except SQLAlchemyError:
        away = "The database of conversations cannot be reached just now."
        raise Unavailable(away, code="database_unavailable", retry_after_s=2) from None


def _code(answered: Answered) -> Any:
    return msgspec.json.decode(answered.body)["error"]["code"]
