"""What a stream has delivered, in case it breaks: token ids and text. Pure.

A `Transcript` keeps references to the blocks that passed, packs them when a few have piled up, and reads them only when
it is asked; so that a stream that does not break pays next to nothing (reading an event costs 10 us, packing it 0.7:
events are much alike, and shrink to a twentieth). Tokens whose text has not come out yet (half a character) are kept
apart: the next engine generates them again.
"""

import re
import zlib
from array import array
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from forebay.wire.sse import data_of, events_in

PACK_AFTER_BYTES = 32 * 1024

_IDS = re.compile(rb'token_ids":\[[\d,]*\]')  # a quote inside a JSON string is escaped, so this is never model's text


class Delta(msgspec.Struct):
    """What a chat's event adds."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class Choice(msgspec.Struct):
    """One answer's part of an event."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None

    @property
    def words(self) -> str:
        """The text it brings."""
        return (self.delta.content if self.delta is not None else self.text) or ""


class Chunk(msgspec.Struct):
    """One event of a stream, in either form."""

    id: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None
    choices: list[Choice] = []
    usage: dict[str, Any] | None = None
    prompt_token_ids: list[int] | None = None
    object: str = ""
    error: Any = None


_chunk_decoder = msgspec.json.Decoder(Chunk)


class Transcript:
    """What one stream has delivered. `whole_text` is the answer so far, `tokens` how many its text took."""

    __slots__ = (
        "_blocks",
        "_loose",
        "_packed",
        "_size",
        "_text",
        "chat",
        "finish_reason",
        "frame",
        "ids",
        "over",
        "plain",
        "prompt_ids",
        "reasoned",
        "reasoning",
        "tokens",
    )

    def __init__(self, *, chat: bool) -> None:
        self.chat = chat
        self.frame: Chunk | None = None  # the first event, for what all events repeat
        self.prompt_ids: array[int] | None = None
        self.finish_reason: str | None = None
        self.over = False  # what came after an abort or an error was not delivered
        self.plain = True  # nothing but the text of one answer, all of it understood
        self.reasoning = self.reasoned = False  # a parser cuts reasoning out of the text: just now, ever
        self.tokens = 0
        self.ids: array[int] = array("q")  # of the text so far; empty where the engine does not tell them
        self._loose: list[int] = []  # those since, whose text has not come yet
        self._text: list[str] = []
        self._blocks: list[bytes] = []
        self._packed: list[bytes] = []
        self._size = 0

    def take(self, block: bytes) -> bytes:
        """Keep a block of whole events; return it as the caller shall have it, without the token ids."""
        self._blocks.append(block)
        self._size += len(block)
        if self._size > PACK_AFTER_BYTES:
            self._packed.append(zlib.compress(b"".join(self._blocks), level=1))
            self._blocks, self._size = [], 0
        return _IDS.sub(b'token_ids":null', block)

    def read(self) -> None:
        """Read the blocks kept so far, and let them go."""
        blocks = [*map(zlib.decompress, self._packed), *self._blocks]
        self._packed, self._blocks, self._size = [], [], 0
        for event in events_in(b"".join(blocks)):
            self.read_event(event)

    def read_event(self, event: bytes) -> Chunk | None:
        """Take one event in; None where it brings nothing of an answer: `[DONE]`, a comment, an error."""
        if self.over:
            return None
        data = data_of(event)
        try:
            chunk = _chunk_decoder.decode(data)
        except (msgspec.DecodeError, RecursionError):
            if data.startswith(b"{"):  # it may have brought text
                self.plain = False
            return None
        if chunk.error is not None or chunk.object == "error":
            self.over = True
            return None
        self._add(chunk)
        return chunk

    def _add(self, chunk: Chunk) -> None:
        if self.frame is None:
            self.frame = chunk
        prompt_ids = chunk.prompt_token_ids
        for choice in chunk.choices:
            if choice.finish_reason == "abort":
                self.over = True
                return
            prompt_ids = prompt_ids or choice.prompt_token_ids
            self._add_choice(choice)
        if prompt_ids and self.prompt_ids is None:
            self.prompt_ids = array("q", prompt_ids)
            self.frame.prompt_token_ids = None  # once is enough

    def _add_choice(self, choice: Choice) -> None:
        delta = choice.delta
        if choice.index or (delta is not None and (delta.tool_calls or delta.function_call)):
            self.plain = False
        if delta is not None and (delta.reasoning or delta.reasoning_content):
            self.reasoning = self.reasoned = True
        self._loose += choice.token_ids or ()
        self.finish_reason = choice.finish_reason or self.finish_reason
        if choice.words or choice.finish_reason:
            self.reasoning = False
            self._text.append(choice.words)
            self.ids.extend(self._loose)
            self.tokens += len(self._loose) if choice.token_ids is not None else bool(choice.words)
            self._loose = []

    @property
    def whole_text(self) -> str:
        return "".join(self._text)
