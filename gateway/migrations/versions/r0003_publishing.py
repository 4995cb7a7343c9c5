"""Of unfinished fine-tunes, one publishes under a name."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    unfinished = sa.text("status IN ('queued', 'running')")
    op.add_column("fine_tunes", sa.Column("publishes", sa.String(128)))
    op.create_index(
        "fine_tunes_publishing",
        "fine_tunes",
        ["publishes"],
        unique=True,
        if_not_exists=True,
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
