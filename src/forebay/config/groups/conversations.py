"""Conversations that are kept."""

from functools import partial

from forebay.config.groups.group import MIB, Group, declare

setting = partial(declare, group="conversations", hot=True)


class ConversationSettings(Group):
    conversation_ttl_s: float = setting(
        30 * 86_400.0,
        "Time after its last message for which a conversation is kept; one may be made with less, seconds.",
        ge=1,
        le=3650 * 86_400,
        allow_inf_nan=False,
    )
    max_conversations: int = setting(10_000, "Most conversations of one tenant.", ge=1, le=10_000_000)
    max_conversation_messages: int = setting(2000, "Most messages in one conversation.", ge=2, le=4000)
    max_message_bytes: int = setting(MIB // 4, "Longest message in a conversation, bytes.", ge=64, le=8 * MIB)
    max_waiting_posts: int = setting(
        32, "Most posts to one conversation that wait for those before them.", ge=0, le=10_000
    )
    conversation_lease_s: float = setting(
        15.0,
        "Time after which a gateway that died holds a conversation no more, seconds.",
        ge=0.5,
        le=600,
        allow_inf_nan=False,
    )
