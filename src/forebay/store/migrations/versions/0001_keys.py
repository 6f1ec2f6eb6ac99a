"""Keys, their secrets, tenants, and the number of the latest change."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _limits() -> list[sa.Column[int]]:
    names = ("requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month")
    return [sa.Column(name, sa.BigInteger) for name in names]


def upgrade() -> None:
    changes = op.create_table("changes", sa.Column("number", sa.BigInteger, nullable=False))
    op.bulk_insert(changes, [{"number": 0}])
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(64), primary_key=True),
        *_limits(),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Index("tenants_changed", "changed"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("models", sa.String),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        *_limits(),
        sa.Column("expires_at", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Index("keys_tenant", "tenant", "id"),
        sa.Index("keys_changed", "changed"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "key_secrets",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("key_id", sa.String(64), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Index("key_secrets_key", "key_id"),
        sqlite_with_rowid=False,
    )
