"""Files and batches."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Index("files_tenant", "tenant", "id"),
        sa.Index("files_expires", "expires_at"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("caller", sa.String, nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_file", sa.String(64), nullable=False),
        sa.Column("completion_window", sa.String(16), nullable=False),
        sa.Column("metadata", sa.String),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("errors", sa.String),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("total", "completed", "failed")),
        sa.Column("output_file", sa.String(64)),
        sa.Column("error_file", sa.String(64)),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        *(sa.Column(f"{name}_at", sa.Double) for name in ("in_progress", "finalizing", "cancelling", "ended")),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("held_until", sa.Double, nullable=False),
        sa.Index("batches_tenant", "tenant", "id"),
        sa.Index("batches_status", "status", "id"),
        sqlite_with_rowid=False,
    )
