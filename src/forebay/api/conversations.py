"""Conversations: kept by Forebay, so that a caller sends what is new and nothing else. Each belongs to its tenant."""

from collections.abc import AsyncGenerator
from time import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from forebay.api.admitted import CallersRoute
from forebay.api.conversation_forms import (
    Conversation,
    ConversationPage,
    ConversationWithMessages,
    Deleted,
    Message,
    NewConversation,
    NewMessage,
    Reply,
    Usage,
)
from forebay.api.inner import GONE, EventStream, fields_of, passed_back, unless_gone
from forebay.gateway.conversing import Post, Talk, told
from forebay.gateway.errors import error_events
from forebay.gateway.inner import Refused
from forebay.gateway.routes import Dialect
from forebay.policy.auth import Principal
from forebay.refusals import BadRequest, NotFound, Refusal, Unavailable
from forebay.replicas.pool import no_such_model
from forebay.store import conversations as store
from forebay.store.conversations import new_id
from forebay.store.turns import Turns

PAGE = 20
MOST_ON_PAGE = 100  # a message may be long
PASSED_ON = (
    *(b"traceparent", b"tracestate", b"x-request-timeout-ms", b"x-stainless-read-timeout"),
    *(b"cache-control", b"x-forebay-cache", b"x-forebay-preset"),
)
PRINTABLE = r"^[\x21-\x7e]*$"
router = APIRouter(prefix="/v1/conversations", tags=["conversations"], route_class=CallersRoute)


Id = Annotated[str, Path(max_length=64, pattern=PRINTABLE, description="The conversation's id.")]
Limit = Annotated[int, Query(ge=1, le=MOST_ON_PAGE, description="Entries on a page.")]
After = Annotated[str, Query(max_length=64, pattern=PRINTABLE, description="`after` of the page before.")]


@router.post("", status_code=201, summary="Begin a conversation")
async def create_conversation(request: Request, new: NewConversation) -> Conversation:
    """A conversation in which nothing has been said yet."""
    gateway, principal, now = request.app.state.gateway, request.state.principal, time()
    turns = _turns(request)
    resolving = gateway.pipeline.resolving
    model, name, preset = resolving.meant_by(new.model)
    if not principal.may_use(name, model):
        raise no_such_model(new.model)
    if preset is not None:
        resolving.presets.values(preset)  # that there is one
    _check_length(request, new.system or "", "system")
    ttl_s = gateway.settings.conversation_ttl_s if new.ttl_s is None else new.ttl_s
    if ttl_s > gateway.settings.conversation_ttl_s:
        raise BadRequest(f"'ttl_s' may be {gateway.settings.conversation_ttl_s:.12g} s at most here.", param="ttl_s")
    made = store.Conversation(
        new_id(now), principal.tenant, new.model, new.system, new.metadata, now, ttl_s, expires_at=now + ttl_s
    )
    with told():
        await turns.do(turns.store.create, made, gateway.settings.max_conversations)
    return Conversation(**_card(made))


@router.get("", summary="List conversations")
async def list_conversations(request: Request, after: After = "", limit: Limit = PAGE) -> ConversationPage:
    """The tenant's conversations, the newest first."""
    turns = _turns(request)
    with told():
        found = await turns.do(turns.store.page, request.state.principal.tenant, time(), after, limit)
    data = [Conversation(**_card(one)) for one in found]
    return ConversationPage(data=data, after=found[-1].id if len(found) == limit else None)


@router.get("/{conversation_id}", summary="One conversation")
async def show_conversation(
    request: Request,
    conversation_id: Id,
    after: Annotated[int, Query(ge=-1, le=10_000, description="`after` of the page before.")] = -1,
    limit: Limit = MOST_ON_PAGE,
) -> ConversationWithMessages:
    """A conversation with its messages, the oldest first; those too that the model is not told any more."""
    turns = _turns(request)
    with told():
        found = await turns.do(turns.store.show, request.state.principal.tenant, conversation_id, time(), after, limit)
    conversation, said = found
    return ConversationWithMessages(
        **_card(conversation),
        messages=[Message(**_said(one)) for one in said],
        after=said[-1].position if len(said) == limit else None,
    )


@router.delete("/{conversation_id}", summary="Delete a conversation")
async def delete_conversation(request: Request, conversation_id: Id) -> Deleted:
    """The end of a conversation, with all that was said in it."""
    turns = _turns(request)
    with told():
        await turns.do(turns.store.delete, request.state.principal.tenant, conversation_id, time())
    return Deleted(id=conversation_id)


@router.post(
    "/{conversation_id}/messages",
    summary="Say something in a conversation",
    response_model=Reply,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def post_message(request: Request, conversation_id: Id, new: NewMessage) -> Any:
    """The assistant's answer, or with `stream` OpenAI's chat completion chunks. Posts to one conversation are answered
    one after the other."""
    gateway, turns = request.app.state.gateway, _turns(request)
    _check_length(request, new.content, "content")
    talk = Talk(gateway.pipeline, turns, gateway.settings, _post(request, conversation_id, new))
    events = talk.events()
    try:
        begun = await unless_gone(request, anext(events) if new.stream else _last(events))
    except Refused as refused:
        return passed_back(refused.answered)
    if begun is None:
        return Response(status_code=GONE)
    if new.stream:
        return EventStream(_told(begun, events), events, talk.lines)
    if talk.reply is None:
        failed = "The engine failed before the answer was complete. Nothing is stored: post it again."
        raise Unavailable(failed, code="engine_error", retry_after_s=1)
    return Response(
        _reply(conversation_id, talk.reply).model_dump_json(), 200, fields_of(talk.lines), "application/json"
    )


async def _last(events: AsyncGenerator[bytes, None]) -> bytes:
    """Take all there is."""
    last = b""
    async for block in events:
        last = block
    return last


async def _told(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A stream, with what goes wrong in it said as its last event."""
    yield first
    try:
        async for block in rest:
            yield block
    except Refusal as refusal:
        yield error_events(refusal, Dialect.OPENAI, 0)


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
