"""Locations: what callers say of a place that they name."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("copies", sa.Column("metadata", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")))
