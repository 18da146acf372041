"""The index of lists. Its rows are made after the last migration: ikon/db/index.py."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ikon.db.migrations.options import table_options, text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    options = table_options()
    op.create_table(
        "terms",
        sa.Column("t", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("k", sa.BigInteger, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
        **options,
    )
    op.create_table(
        "sorts",
        sa.Column("t", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("v", sa.LargeBinary().with_variant(mysql.VARBINARY(1024), "mysql", "mariadb"), primary_key=True),
        sa.Column("k", sa.BigInteger, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
        **options,
    )
    op.create_table(
        "secrets",
        sa.Column("name", text(40), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
        **options,
    )
    op.create_index("images_checksum", "images", ["checksum", "k"])
    op.create_index("images_hash", "images", ["os_hash_value", "k"])
    for name in ("images_owner", "images_visibility", "images_hidden"):
        op.drop_index(name, "images")
