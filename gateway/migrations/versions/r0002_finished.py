"""Old stories are looked for by when they finished."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("narratives_by_finish", "narratives", ["finished_at_us"], if_not_exists=True)
