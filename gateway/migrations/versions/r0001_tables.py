"""The tables of the first release; databases from before there were revisions have some or all of them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "narratives",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("finished_at_us", sa.BigInteger),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("executor_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("idempotency_digest", sa.String(64), unique=True),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("audio_bytes", sa.BigInteger, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        if_not_exists=True,
    )
    op.create_index("narratives_by_age", "narratives", ["created_at_us", "id"], if_not_exists=True)
    op.create_index("narratives_by_status", "narratives", ["status", "created_at_us", "id"], if_not_exists=True)
    op.create_table(
        "narrative_events",
        sa.Column("narrative_id", sa.String(32), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.UniqueConstraint("narrative_id", "key"),
        if_not_exists=True,
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("num_files", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("suffixes", sa.JSON, nullable=False),
        if_not_exists=True,
    )
    op.create_index("datasets_by_age", "datasets", ["created_at_us", "id"], if_not_exists=True)
    op.create_table(
        "fine_tunes",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("finished_at_us", sa.BigInteger),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("executor_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("idempotency_digest", sa.String(64), unique=True),
        sa.Column("recipe", sa.String(64), nullable=False),
        sa.Column("dataset", sa.String(32), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("adapter", sa.String(64)),
        sa.Column("measures", sa.JSON),
        sa.Column("error", sa.JSON),
        if_not_exists=True,
    )
    op.create_index("fine_tunes_by_age", "fine_tunes", ["created_at_us", "id"], if_not_exists=True)
    op.create_index("fine_tunes_by_status", "fine_tunes", ["status", "created_at_us", "id"], if_not_exists=True)
