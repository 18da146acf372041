"""Metadata definitions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ikon.db.migrations.options import table_options, text

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "metadef_namespaces",
        sa.Column("n", key, primary_key=True),
        sa.Column("namespace", text(80), nullable=False),
        sa.Column("display_name", text(80)),
        sa.Column("description", text(500)),
        sa.Column("visibility", text(10), nullable=False),
        sa.Column("protected", sa.Boolean, nullable=False),
        sa.Column("owner", text(255)),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("namespace", name="metadef_namespaces_namespace"),
        sqlite_autoincrement=True,
        **table_options(),
    )
    op.create_index("metadef_namespaces_visibility", "metadef_namespaces", ["visibility", "n"])
    op.create_index("metadef_namespaces_owner", "metadef_namespaces", ["owner", "visibility", "n"])
    op.create_table(
        "metadef_entries",
        sa.Column("namespace", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", text(16), primary_key=True),
        sa.Column("name", text(80), primary_key=True),
        sa.Column("doc", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        **table_options(),
    )
    op.create_index("metadef_entries_name", "metadef_entries", ["kind", "name", "namespace"])
    op.create_table(
        "metadef_resource_types",
        sa.Column("name", text(80), primary_key=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        **table_options(),
    )
