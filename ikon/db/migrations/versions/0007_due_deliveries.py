"""Deliveries found by what is due: a long backlog whose sink is away is not read over and over."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index("deliveries_due", "deliveries", ["sink", "parked", "not_before", "n", "image_id"])
