"""Conversations, what was said in them, and whose turn it is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def _of_conversation() -> sa.Column[str]:
    whose = sa.ForeignKey("conversations.id", ondelete="CASCADE")
    return sa.Column("conversation", sa.String(64), whose, primary_key=True)


def upgrade() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("system", sa.String),
        sa.Column("metadata", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ttl_s", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Index("conversations_tenant", "tenant", "id"),
        sa.Index("conversations_expiry", "expires_at"),
    )
    op.create_table(
        "conversation_messages",
        _of_conversation(),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("content", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finish_reason", sa.String(64)),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("trimmed", sa.Integer),
    )
    op.create_table(
        "conversation_turns",
        _of_conversation(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
