"""A completion as engines tell it → a text and its counts, whole or event by event. Pure."""

from typing import Any

import msgspec

from forebay.wire.sse import data_of, events_in

DONE = b"data: [DONE]\n\n"


class _Choice(msgspec.Struct):
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(msgspec.Struct):
    """An engine's answer with one choice, or one event of it."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def text(self) -> str:
        return "".join(choice.text or "" for choice in self.choices)

    @property
    def finish_reason(self) -> str | None:
        return next((choice.finish_reason for choice in self.choices), None)


_decoder = msgspec.json.Decoder(Completion)


def read_completion(body: bytes) -> Completion | None:
    """The answer or event; None where it is none."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None


class Retelling:
    """A stream of completion events, told again in simple ones: `text` and `index`, then the counts; or `error`."""

    def __init__(self) -> None:
        self._pieces = 0
        self._finish_reason: str | None = None
        self._usage = _Usage()
        self._failed = False

    def __repr__(self) -> str:
        return f"<Retelling pieces={self._pieces} finish_reason={self._finish_reason} failed={self._failed}>"

    def take(self, block: bytes) -> bytes:
        """What to tell of a block of whole events; comments, which keep a connection alive, as they are."""
        return b"".join(self._told(event, data_of(event)) for event in events_in(block))

    def end(self, facts: dict[str, Any]) -> bytes:
        """What to tell when there are no more: the counts and these facts, unless the stream failed."""
        if self._failed:
            return DONE
        counts = {
            "finish_reason": self._finish_reason,
            "tokens_generated": self._usage.completion_tokens,
            "prompt_tokens": self._usage.prompt_tokens,
        }
        return _event({**counts, **facts}) + DONE

    def _told(self, event: bytes, data: bytes) -> bytes:
        if not data:
            return event
        if (completion := read_completion(data)) is None:  # `[DONE]`, too
            return b""
        if bytes(completion.error):
            self._failed = True
            return _event({"error": completion.error})
        self._usage = completion.usage or self._usage
        self._finish_reason = completion.finish_reason or self._finish_reason
        if not completion.text:
            return b""
        self._pieces += 1
        return _event({"text": completion.text, "index": self._pieces - 1})


def _event(told: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(told)
