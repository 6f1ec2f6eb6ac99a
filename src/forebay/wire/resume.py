"""How to go on with an answer that another replica began. Pure.

Of the `Transcript` of a stream that broke, `plan` makes what is to be done next:

    by ids   The engine told the token ids (`return_token_ids`), so another one is given prompt and answer as ids, over
             /v1/completions. In float32 that continues greedy text exactly (measured on vLLM 0.32: 18 of 18 cases).
    by text  Where there are none, where `stop` holds text back, or where the prompt is more than text: the prompt with
             the text so far, as `continue_final_message` has it (17 of 18; text may be cut into other tokens).
    closing  The answer was whole already, and only its last events are missing.

What the next engine sends is told to the caller in the first one's words (`Continuation`): the same id, no second role,
usage over the whole.
"""

from typing import Any

import msgspec
from msgspec import UNSET

from forebay.wire.sse import events_in
from forebay.wire.transcript import Choice, Chunk, Delta, Transcript

MOST_BYTES_WITH_IDS = 128 * 1024  # of a body: the ids of a longer prompt would make the first event too large
COMPLETIONS_PATH = b"/v1/completions"
DONE = b"data: [DONE]\n\n"

_DEFAULT_COMPLETION_TOKENS = 16
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "logit_bias", "user"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"),
    *("stop_token_ids", "ignore_eos", "allowed_token_ids", "bad_words"),
    *("skip_special_tokens", "spaces_between_special_tokens"),
)


_body_decoder = msgspec.json.Decoder(dict[str, Any])


class Continuation:
    """One request that goes on with a transcript's answer; `translate` what comes back."""

    __slots__ = ("_before", "_transcript", "body", "path")

    def __init__(self, transcript: Transcript, path: bytes, body: dict[str, Any]) -> None:
        self._transcript = transcript
        self._before = transcript.tokens
        self.path = path
        self.body = msgspec.json.encode(body)

    def translate(self, block: bytes) -> bytes:
        """A block of whole events as the caller shall have it."""
        told = []
        for event in events_in(block):
            chunk = self._transcript.read_event(event)
            told.append(event if chunk is None else self._retold(chunk))
        return b"".join(told)

    def _retold(self, chunk: Chunk) -> bytes:
        transcript = self._transcript
        choices = [_retold_choice(choice, chat=transcript.chat) for choice in chunk.choices if _tells(choice)]
        usage = self._whole_usage(chunk.usage) if chunk.usage is not None else None
        if not choices and usage is None:
            return b""
        return _event(transcript, choices, usage, chunk.system_fingerprint)

    def _whole_usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Usage over the whole answer: what this engine took for prompt was, in its last part, answer."""
        prompt_ids = self._transcript.prompt_ids
        prompt = len(prompt_ids) if prompt_ids else max(usage.get("prompt_tokens", 0) - self._before, 0)
        completion = usage.get("completion_tokens", 0) + self._before
        usage = {**usage, **_counts(prompt, completion)}
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(cached := details.get("cached_tokens"), int):
            usage["prompt_tokens_details"] = {**details, "cached_tokens": min(cached, prompt)}
        return usage


def plan(transcript: Transcript, path: bytes, body: bytes, context_tokens: int | None) -> Continuation | bytes | None:
    """How to go on: a request to another replica, the closing events, or None where it cannot be done.

    `path` and `body` are the first request's, `context_tokens` is the model's context length where it is known.
    """
    transcript.read()
    transcript.over = False
    if transcript.finish_reason is not None:
        return _closing(transcript)
    if not transcript.plain or transcript.reasoning or transcript.frame is None:
        return None
    asked = _body_decoder.decode(body)
    left = _tokens_left(asked, transcript, context_tokens)
    if left is not None and left < 1:
        return _closing(transcript, finish_reason="length")
    if transcript.prompt_ids and left and not asked.get("stop") and _is_text_only(asked.get("messages")):
        return Continuation(transcript, COMPLETIONS_PATH, _by_ids(transcript, asked, left))
    by_text = _by_text(transcript, asked, left) if not transcript.reasoned else None
    return Continuation(transcript, path, by_text) if by_text is not None else None


def _by_ids(transcript: Transcript, asked: dict[str, Any], left: int) -> dict[str, Any]:
    assert transcript.prompt_ids is not None
    return {
        **{name: value for name, value in asked.items() if name in _SAMPLING},
        **_common(transcript, asked),
        "prompt": [*transcript.prompt_ids, *transcript.ids],
        "max_tokens": left,
        "return_token_ids": True,
    }


def _by_text(transcript: Transcript, asked: dict[str, Any], left: int | None) -> dict[str, Any] | None:
    text = transcript.whole_text
    again = {**asked, **_common(transcript, asked)}
    if left is not None:
        again["max_completion_tokens" if asked.get("max_completion_tokens") else "max_tokens"] = left
    if not transcript.chat:
        if not isinstance(asked.get("prompt"), str):
            return None
        again["prompt"] = asked["prompt"] + text
    elif text:
        if asked.get("continue_final_message"):
            return None
        again["messages"] = [*asked["messages"], {"role": "assistant", "content": text}]
        again |= {"continue_final_message": True, "add_generation_prompt": False}
    return again


def _common(transcript: Transcript, asked: dict[str, Any]) -> dict[str, Any]:
    options = {**(asked.get("stream_options") or {}), "include_usage": True}
    common = {"model": asked.get("model"), "stream": True, "stream_options": options}
    if salt := asked.get("cache_salt"):  # the gateway's own: what was cut is not to be found by other tenants either
        common["cache_salt"] = salt
    if asked.get("min_tokens"):
        common["min_tokens"] = max(asked["min_tokens"] - transcript.tokens, 0)
    return common


def _tokens_left(asked: dict[str, Any], transcript: Transcript, context_tokens: int | None) -> int | None:
    """How many tokens the answer may still take, None where only an unknown context bounds it."""
    bounds = [asked.get("max_completion_tokens") or asked.get("max_tokens")]
    if bounds == [None] and not transcript.chat:
        bounds = [_DEFAULT_COMPLETION_TOKENS]
    if context_tokens and transcript.prompt_ids:
        bounds.append(context_tokens - len(transcript.prompt_ids))
    known = [bound for bound in bounds if bound is not None]
    return min(known) - transcript.tokens if known else None


def _is_text_only(messages: Any) -> bool:
    """Whether a prompt is nothing but text: pictures and sound are not in its token ids."""
    contents = [message.get("content") for message in messages or ()]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return all(isinstance(part, str) or part.get("type") == "text" for part in parts)


def _closing(transcript: Transcript, finish_reason: str | None = None) -> bytes:
    last = b""
    if finish_reason is not None:
        choice = Choice(delta=Delta(), text="", finish_reason=finish_reason)
        last = _event(transcript, [_retold_choice(choice, chat=transcript.chat)], None, None)
    prompt = len(transcript.prompt_ids or ())
    usage = _event(transcript, [], _counts(prompt, transcript.tokens), None) if prompt else b""
    return last + usage + DONE


def _counts(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def _tells(choice: Choice) -> bool:
    """Whether an event says anything to the caller: not the second role, nor half a character."""
    return bool(choice.words) or choice.finish_reason is not None


def _retold_choice(choice: Choice, *, chat: bool) -> dict[str, Any]:
    words = {"delta": {"content": choice.words}} if chat else {"text": choice.words}
    told = {"index": 0, **words, "logprobs": None, "finish_reason": choice.finish_reason}
    if choice.stop_reason is not UNSET:
        told["stop_reason"] = choice.stop_reason
    return {**told, "token_ids": None}


def _event(
    transcript: Transcript, choices: list[dict[str, Any]], usage: dict[str, Any] | None, fingerprint: str | None
) -> bytes:
    frame = transcript.frame
    assert frame is not None
    chunk: dict[str, Any] = {
        "id": frame.id,
        "object": "chat.completion.chunk" if transcript.chat else "text_completion",
        "created": frame.created,
        "model": frame.model,
        "choices": choices,
    }
    if usage is not None:
        chunk["usage"] = usage
    if fingerprint is not None:
        chunk["system_fingerprint"] = fingerprint
    return b"data: %s\n\n" % msgspec.json.encode(chunk)
