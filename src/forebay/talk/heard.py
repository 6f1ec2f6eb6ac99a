"""One answer while it comes: its text, its tokens, and how fast they came. Time is an argument."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Heard:
    """What has been heard of an answer that was asked for at `began`, monotonic seconds."""

    began: float
    text: str = ""
    first: float | None = None
    last: float = 0.0
    events: int = 0
    model: str | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any], now: float) -> tuple[str, str]:
        """Take an event in; return what the model thought in it, and what it said."""
        self.usage = event.get("usage") or self.usage
        self.model = event.get("model") or self.model
        choice = (event.get("choices") or [{}])[0]
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = choice.get("delta") or {}
        thought = str(delta.get("reasoning") or delta.get("reasoning_content") or "")
        said = str(delta.get("content") or choice.get("text") or "")
        if thought or said:
            self.first, self.last = self.first if self.first is not None else now, now
            self.events += 1
            self.text += said
        return thought, said

    @property
    def prompt_tokens(self) -> int:
        return int(self.usage.get("prompt_tokens") or 0)

    @property
    def tokens(self) -> int:
        """Generated tokens, as the engine counted them; the events of an answer that was left before it could."""
        return int(self.usage.get("completion_tokens") or self.events)

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token."""
        return self.first - self.began if self.first is not None else None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second after the first; None where there is no pause between two."""
        if self.first is None or self.tokens < 2 or self.last <= self.first:
            return None
        return (self.tokens - 1) / (self.last - self.first)

    def in_words(self) -> str:
        """Its figures on one line."""
        parts = [f"{self.tokens} {'token' if self.tokens == 1 else 'tokens'}"]
        parts += [f"first after {self.ttft_s:.2f} s"] if self.ttft_s is not None else []
        parts += [f"{self.tokens_per_s:.1f} tokens/s"] if self.tokens_per_s is not None else []
        return " · ".join(parts)


def totals(heard: list[Heard]) -> str:
    """The figures of all answers together, a line each."""
    prompt, generated = sum(one.prompt_tokens for one in heard), sum(one.tokens for one in heard)
    firsts = [one.ttft_s for one in heard if one.ttft_s is not None]
    speeds = [one.tokens_per_s for one in heard if one.tokens_per_s is not None]
    lines = [f"answers: {len(heard)}", f"tokens: {prompt} in prompts, {generated} generated"]
    lines += [f"first token: {sum(firsts) / len(firsts):.2f} s on average"] if firsts else []
    lines += [f"speed: {sum(speeds) / len(speeds):.1f} tokens/s on average"] if speeds else []
    return "\n".join(lines)
