"""Deliveries of events."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ikon.db.migrations.options import table_options, text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "deliveries",
        sa.Column("n", key, primary_key=True),
        sa.Column("sink", text(20), nullable=False),
        sa.Column("image_id", text(36), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("kind", text(40), nullable=False),
        sa.Column("body", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("parked", sa.Boolean, nullable=False),
        **table_options(),
    )
    op.create_index("deliveries_image", "deliveries", ["sink", "image_id", "n"])
