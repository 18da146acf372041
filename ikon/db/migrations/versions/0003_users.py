"""Built-in users."""

import sqlalchemy as sa
from alembic import op

from ikon.db.migrations.options import table_options, text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", text(255), primary_key=True),
        sa.Column("project", text(255), nullable=False),
        sa.Column("roles", text(255), nullable=False),
        sa.Column("password", text(255), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        **table_options(),
    )
