"""Conversations: kept by Forebay, so that a caller sends what is new and nothing else. Each belongs to its tenant."""

from time import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from forebay.api.admitted import CallerRoute
from forebay.api.streams import ClientLeft, EventStream, response_of, to_the_end, unless_left
from forebay.gateway.conversing import Post, Talk, told
from forebay.gateway.inner import Refused
from forebay.policy.auth import Principal
from forebay.refusals import BadRequest, NotFound, Unavailable
from forebay.replicas.pool import no_such_model
from forebay.store import conversations as store
from forebay.store.conversations import PAGE, new_id
from forebay.store.turns import Turns

MAX_PAGE = 1000
CLIENT_LEFT = 499
PASSED_ON = (b"traceparent", b"x-request-timeout-ms")
PRINTABLE = r"^[\x21-\x7e]*$"
router = APIRouter(prefix="/v1/conversations", tags=["conversations"], route_class=CallerRoute)


def _plain(text: str) -> str:
    """Text that any database takes."""
    if "\0" in text:
        raise ValueError("must not hold the character U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not hold half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_plain)]
Id = Annotated[str, Path(max_length=64, pattern=PRINTABLE, description="The conversation's id.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries on a page.")]
After = Annotated[str, Query(max_length=64, pattern=PRINTABLE, description="`after` of the page before.")]
Metadata = Annotated[
    dict[Annotated[Text, Field(min_length=1, max_length=64)], Annotated[Text, Field(max_length=512)]],
    Field(max_length=16),
]


class NewConversation(BaseModel):
    """A conversation to be made."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    model: Annotated[Text, Field(min_length=1, max_length=256)] = Field(description="Who answers in it.")
    system: Text | None = Field(None, description="What the model is told before all else; it is never left out.")
    metadata: Metadata = Field({}, description="The caller's own: at most 16 short texts by name.")
    ttl_s: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] | None = Field(
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

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    content: Annotated[Text, Field(min_length=1)]
    role: Literal["user"] = "user"
    stream: bool = Field(False, description="Answer with OpenAI's chat completion chunks.")
    max_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = None
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


@router.post("", status_code=201, summary="Begin a conversation")
def create_conversation(request: Request, new: NewConversation) -> Conversation:
    """A conversation in which nothing has been said yet."""
    gateway, principal, now = request.app.state.gateway, request.state.principal, time()
    turns = _turns(request)
    if not principal.may_use(new.model, gateway.replicas.resolve(new.model)):
        raise no_such_model(new.model)
    _check_length(request, new.system or "", "system")
    ttl_s = gateway.settings.conversation_ttl_s if new.ttl_s is None else new.ttl_s
    if ttl_s > gateway.settings.conversation_ttl_s:
        raise BadRequest(f"'ttl_s' may be {gateway.settings.conversation_ttl_s:g} at most here.", param="ttl_s")
    made = store.Conversation(
        new_id(now), principal.tenant, new.model, new.system, new.metadata, now, ttl_s, expires_at=now + ttl_s
    )
    with told():
        turns.store.create(made, gateway.settings.max_conversations)
    return Conversation(**_card(made))


@router.get("", summary="List conversations")
def list_conversations(request: Request, after: After = "", limit: Limit = PAGE) -> ConversationPage:
    """The tenant's conversations, the newest first."""
    with told():
        found = _turns(request).store.page(request.state.principal.tenant, time(), after, limit)
    data = [Conversation(**_card(one)) for one in found]
    return ConversationPage(data=data, after=found[-1].id if len(found) == limit else None)


@router.get("/{conversation_id}", summary="One conversation")
def show_conversation(
    request: Request,
    conversation_id: Id,
    after: Annotated[int, Query(ge=-1, le=10_000, description="`after` of the page before.")] = -1,
    limit: Limit = PAGE,
) -> ConversationWithMessages:
    """A conversation with its messages, the oldest first; those too that the model is not told any more."""
    with told():
        found = _turns(request).store.show(request.state.principal.tenant, conversation_id, time(), after, limit)
    conversation, said = found
    return ConversationWithMessages(
        **_card(conversation),
        messages=[Message(**_said(one)) for one in said],
        after=said[-1].position if len(said) == limit else None,
    )


@router.delete("/{conversation_id}", summary="Delete a conversation")
def delete_conversation(request: Request, conversation_id: Id) -> Deleted:
    """The end of a conversation, with all that was said in it."""
    with told():
        _turns(request).store.delete(request.state.principal.tenant, conversation_id, time())
    return Deleted(id=conversation_id)


@router.post("/{conversation_id}/messages", summary="Say something in a conversation", response_model=Reply)
async def post_message(request: Request, conversation_id: Id, new: NewMessage) -> Any:
    """The assistant's answer, or with `stream` OpenAI's chat completion chunks. Posts to one conversation are answered
    one after the other."""
    gateway, turns = request.app.state.gateway, _turns(request)
    _check_length(request, new.content, "content")
    talk = Talk(gateway.pipeline, turns, gateway.settings, _post(request, conversation_id, new))
    events: Any = talk.events()
    try:
        if new.stream:
            return EventStream(await unless_left(request, anext(events)), events)
        await unless_left(request, to_the_end(events))
    except Refused as refused:
        return response_of(refused.answered)
    except ClientLeft:
        return Response(status_code=CLIENT_LEFT)
    if talk.reply is None:
        failed = "The engine failed before the answer was complete. Nothing is stored: post it again."
        raise Unavailable(failed, code="engine_error", retry_after_s=1)
    return _reply(conversation_id, talk.reply)


def _turns(request: Request) -> Turns:
    turns: Turns | None = request.app.state.gateway.turns
    if turns is None:
        raise NotFound(
            "Conversations are kept in a database, and there is none here; set keys_database or database_url."
        )
    return turns


def _check_length(request: Request, text: str, param: str) -> None:
    most: int = request.app.state.gateway.settings.max_message_bytes
    if len(text.encode()) > most:
        raise BadRequest(f"'{param}' is longer than {most} bytes.", param=param)


def _post(request: Request, conversation_id: str, new: NewMessage) -> Post:
    principal: Principal = request.state.principal
    headers = {name: value for name, value in request.headers.raw if name in PASSED_ON}
    headers[b"x-request-id"] = request.state.request_id.encode()
    options = new.model_dump(exclude_none=True, exclude={"content", "role", "stream"})
    address = request.client.host if request.client is not None else ""
    return Post(principal, conversation_id, new.content, options, headers, address)


def _card(one: store.Conversation) -> dict[str, Any]:
    times = {"created_at": int(one.created_at), "expires_at": int(one.expires_at)}
    what = {"id": one.id, "model": one.model, "system": one.system, "metadata": one.metadata}
    return {**what, **times, "message_count": one.messages}


def _said(one: store.Message) -> dict[str, Any]:
    what = {"position": one.position, "role": one.role, "content": one.content}
    return {**what, "created_at": int(one.created_at), "finish_reason": one.finish_reason}


def _reply(conversation_id: str, one: store.Message) -> Reply:
    usage = None
    if one.prompt_tokens is not None and one.completion_tokens is not None:
        total = one.prompt_tokens + one.completion_tokens
        usage = Usage(prompt_tokens=one.prompt_tokens, completion_tokens=one.completion_tokens, total_tokens=total)
    return Reply(**_said(one), conversation_id=conversation_id, usage=usage, trimmed=one.trimmed or 0)
