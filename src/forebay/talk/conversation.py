"""A conversation as it is sent and kept: a system message, and questions with their answers. No I/O."""

import json
from dataclasses import dataclass, field


class NotAConversation(ValueError):
    """A text that holds no conversation."""


@dataclass
class Conversation:
    """What was said so far. A question is in it once it has an answer, so that roles always alternate."""

    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

    def messages(self, question: str | None = None) -> list[dict[str, str]]:
        """All of it in OpenAI's form, with a question that has no answer yet."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answered in self.turns:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return messages + ([{"role": "user", "content": question}] if question is not None else [])

    def to_json(self, model: str) -> str:
        return json.dumps({"model": model, "messages": self.messages()}, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Conversation":
        """Read what `to_json` wrote, or any alternating list of OpenAI's messages. Raises `NotAConversation`."""
        try:
            told = json.loads(text)
            messages = told["messages"] if isinstance(told, dict) else told
            said = [(message["role"], message["content"]) for message in messages]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise NotAConversation("holds no list of messages") from None
        if not all(isinstance(content, str) for _, content in said):
            raise NotAConversation("has messages that are no text")
        system = str(said.pop(0)[1]) if said and said[0][0] == "system" else ""
        questions, answers = said[::2], said[1::2]
        if [role for role, _ in said] != ["user", "assistant"] * len(answers):
            raise NotAConversation("does not go from user to assistant and back")
        return cls(system, [(asked, answered) for (_, asked), (_, answered) in zip(questions, answers, strict=True)])
