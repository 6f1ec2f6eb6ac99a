"""What the endpoints of conversations take and give."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _plain(text: str) -> str:
    """Text that any database takes."""
    if "\0" in text:
        raise ValueError("must not hold the character U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not hold half of a surrogate pair") from None
    return text


_Plain = AfterValidator(_plain)  # behind the bounds, so that pydantic speaks of characters
Text = Annotated[str, _Plain]
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64), _Plain], Annotated[str, Field(max_length=512), _Plain]],
    Field(max_length=16),
]


class NewConversation(BaseModel):
    """A conversation to be made."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"model": "smollm2-135m-instruct", "system": "Be brief."}]},
    )

    model: Annotated[str, Field(min_length=1, max_length=256), _Plain] = Field(
        description="Who answers in it; `:preset` behind it or not."
    )
    system: Text | None = Field(None, description="What the model is told before all else; it is never left out.")
    metadata: Metadata = Field({}, description="The caller's own: at most 16 short texts by name.")
    ttl_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(
        None, description="Time after its last message for which it is kept, seconds; at most `conversation_ttl_s`."
    )


class Conversation(BaseModel):
    """A conversation; times are Unix seconds."""

    id: str
    object: Literal["conversation"] = "conversation"
    model: str
    system: str | None
    metadata: dict[str, str]
    created_at: int
    expires_at: int
    message_count: int


class Message(BaseModel):
    """One message."""

    position: int
    role: Literal["user", "assistant"]
    content: str
    created_at: int
    finish_reason: str | None = Field(
        None, description="Of an answer: why it ends, as the engine says, or `interrupted` where its caller left."
    )


class ConversationWithMessages(Conversation):
    """A conversation and some of its messages; `after` is what to ask the next page with, null where there is none."""

    messages: list[Message]
    after: int | None


class ConversationPage(BaseModel):
    """Some conversations; `after` as for messages."""

    object: Literal["list"] = "list"
    data: list[Conversation]
    after: str | None


class Deleted(BaseModel):
    """That a conversation is no more."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


class NewMessage(BaseModel):
    """What the user says, and how it is to be answered: sampling fields mean what they mean for chat completions."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"content": "What is a forebay?", "max_tokens": 64}]},
    )

    content: Annotated[str, Field(min_length=1), _Plain]
    role: Literal["user"] = "user"
    stream: bool = Field(False, description="Answer with OpenAI's chat completion chunks.")
    preset: str | None = Field(None, max_length=64, description="Name of a sampling preset.")
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Text | list[Text] | None = None


class Usage(BaseModel):
    """Tokens of one answer, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Reply(Message):
    """The assistant's answer, which is stored by then."""

    object: Literal["conversation.message"] = "conversation.message"
    conversation_id: str
    usage: Usage | None
    trimmed: int = Field(description="How many of the oldest messages the model was not told, for want of room.")
