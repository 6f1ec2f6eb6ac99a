"""Every table. `migrations/` makes them; a test compares the two. Times are wall-clock seconds, limits null for none.

Every change of a key or a tenant takes the next number of `changes`, a table of one row, and writes it into the row
it changes as `changed`. Taking it locks that row until the change is committed, so that numbers become visible in
their order: who has seen number n has seen all before it, and asks for what has changed since.

In SQLite the tables are kept in the order of their keys (no rowid): a look-up in one goes down one tree, not two.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

from forebay.policy.usage import FIELDS

SCHEMA = "0005"  # the newest migration: what this code needs
metadata = MetaData()


def _limits() -> list[Column[int]]:
    names = ("requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month")
    return [Column(name, BigInteger) for name in names]


def _of_conversation() -> Column[str]:
    whose = ForeignKey("conversations.id", ondelete="CASCADE")
    return Column("conversation", String(64), whose, primary_key=True)


changes = Table("changes", metadata, Column("number", BigInteger, nullable=False))

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    *_limits(),
    Column("changed", BigInteger, nullable=False),
    Index("tenants_changed", "changed"),
    sqlite_with_rowid=False,
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("scopes", String(64), nullable=False),  # separated by spaces
    Column("models", String),  # a JSON list, null for all
    Column("priority", Integer, nullable=False),
    Column("weight", Double, nullable=False),
    *_limits(),
    Column("expires_at", Double),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("changed", BigInteger, nullable=False),
    Index("keys_tenant", "tenant", "id"),
    Index("keys_changed", "changed"),
    sqlite_with_rowid=False,
)

# What opens a key: one row, and while a key is being rotated two. Only the SHA-256 of the whole text is kept.
key_secrets = Table(
    "key_secrets",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("key_id", String(64), ForeignKey("keys.id"), nullable=False),
    Column("expires_at", Double),
    Index("key_secrets_key", "key_id"),
    sqlite_with_rowid=False,
)

# The ledger: what a key used of a model in a day (UTC). Whose keys they are is not looked up: tokens' subjects and
# configured keys are in it too. `policy/usage.py` says what the figures are.
usage = Table(
    "usage",
    metadata,
    Column("day", Date, primary_key=True),
    Column("tenant", String, primary_key=True),
    Column("key_id", String, primary_key=True),
    Column("model", String, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in FIELDS),
    Index("usage_tenant", "tenant", "day"),
    Index("usage_key", "key_id", "day"),
)

# Who adds to the ledger, and the number of its latest batch that is in.
usage_writers = Table(
    "usage_writers",
    metadata,
    Column("writer", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

# What administrators did. Only ever added to.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", String, nullable=False),  # a key's id, or who typed the command
    Column("address", String, nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String, nullable=False),
    Column("details", String, nullable=False),  # a JSON object
    sqlite_autoincrement=True,
)

# What was said, by the tenant it belongs to. `messages` and `turns` count those there have been.
conversations = Table(
    "conversations",
    metadata,
    Column("id", String(64), primary_key=True),  # in the order in which they were made
    Column("tenant", String, nullable=False),
    Column("model", String, nullable=False),
    Column("system", String),
    Column("metadata", String, nullable=False),  # a JSON object
    Column("created_at", Double, nullable=False),
    Column("ttl_s", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("messages", Integer, nullable=False),
    Column("turns", Integer, nullable=False),
    Index("conversations_tenant", "tenant", "id"),
    Index("conversations_expiry", "expires_at"),
)

# The user's and the assistant's, in turn. The figures are an answer's: of its prompt, `trimmed` messages were left out.
conversation_messages = Table(
    "conversation_messages",
    metadata,
    _of_conversation(),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("role", String(16), nullable=False),
    Column("content", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("finish_reason", String(64)),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("trimmed", Integer),
)

# Posts that are under way or wait, the lowest number first; whose `expires_at` has passed was left by a dead gateway.
conversation_turns = Table(
    "conversation_turns",
    metadata,
    _of_conversation(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("expires_at", Double, nullable=False),
)

# Files that callers sent and batches made; the bytes are on disk. Ids begin with the time: their order is that of age.
files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("name", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("files_tenant", "tenant", "id"),
    Index("files_expires", "expires_at"),
    sqlite_with_rowid=False,
)

# Batches. Who runs one has its row until `held_until`, and its number `run`: each that takes it over has the next.
batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String, nullable=False),
    Column("caller", String, nullable=False),  # a JSON object: the principal that asked for it
    Column("endpoint", String(64), nullable=False),
    Column("input_file", String(64), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("metadata", String),  # a JSON object
    Column("status", String(16), nullable=False),
    Column("errors", String),  # a JSON list
    *(Column(name, Integer, nullable=False) for name in ("total", "completed", "failed")),
    Column("output_file", String(64)),
    Column("error_file", String(64)),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    *(Column(f"{name}_at", Double) for name in ("in_progress", "finalizing", "cancelling", "ended")),
    Column("run", Integer, nullable=False),
    Column("held_until", Double, nullable=False),
    Index("batches_tenant", "tenant", "id"),
    Index("batches_status", "status", "id"),
    sqlite_with_rowid=False,
)
