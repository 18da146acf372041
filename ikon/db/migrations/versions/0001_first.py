"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ikon.db.migrations.options import table_options, text

revision = "0001"
down_revision = None


def upgrade() -> None:
    options = table_options()
    long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    digest_row = sa.LargeBinary().with_variant(mysql.VARBINARY(32768), "mysql", "mariadb")
    integer_key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "images",
        sa.Column("k", integer_key, primary_key=True, autoincrement=False),
        sa.Column("id", text(36), nullable=False),
        sa.Column("owner", text(255)),
        sa.Column("visibility", text(10), nullable=False),
        sa.Column("os_hidden", sa.Boolean, nullable=False),
        sa.Column("status", text(20), nullable=False),
        sa.Column("name", text(255)),
        sa.Column("disk_format", text(20)),
        sa.Column("container_format", text(20)),
        sa.Column("size", sa.BigInteger),
        sa.Column("virtual_size", sa.BigInteger),
        sa.Column("min_disk", sa.Integer, nullable=False),
        sa.Column("min_ram", sa.Integer, nullable=False),
        sa.Column("protected", sa.Boolean, nullable=False),
        sa.Column("checksum", text(32)),
        sa.Column("os_hash_algo", text(20)),
        sa.Column("os_hash_value", text(128)),
        sa.Column("updated", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("reason", text(1000)),
        sa.Column("digests", text(36)),
        sa.Column("doc", long_text, nullable=False),
        sa.UniqueConstraint("id", name="images_id"),
        **options,
    )

    op.create_table("ids", sa.Column("id", text(36), primary_key=True), **options)

    op.create_table(
        "copies",
        sa.Column("id", text(36), primary_key=True),
        sa.Column("image_id", text(36), nullable=False),
        sa.Column("store", text(64), nullable=False),
        sa.Column("node", text(255)),
        sa.Column("url", text(2000), nullable=False),
        sa.Column("state", text(10), nullable=False),
        sa.Column("instance", text(80)),
        sa.Column("project", text(255)),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("verified_at", sa.BigInteger),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        **options,
    )

    op.create_table(
        "block_digests",
        sa.Column("image_id", text(36), primary_key=True),
        sa.Column("copy_id", text(36), primary_key=True),
        sa.Column("gib", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digests", digest_row, nullable=False),
        **options,
    )

    op.create_table(
        "instances",
        sa.Column("id", text(80), primary_key=True),
        sa.Column("node", text(255), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        **options,
    )

    op.create_table(
        "leases",
        sa.Column("name", text(200), primary_key=True),
        sa.Column("instance", text(80), nullable=False),
        **options,
    )

    op.create_table(
        "events",
        sa.Column("n", integer_key, primary_key=True),
        sa.Column("image_id", text(36), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", text(40), nullable=False),
        sa.Column("project", text(255)),
        sa.Column("user", text(255)),
        sa.Column("request", text(64)),
        sa.Column("detail", long_text),
        **options,
    )

    op.create_table(
        "usage",
        sa.Column("project", text(255), primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        **options,
    )
    op.create_index("images_owner", "images", ["owner", "os_hidden", "k"])
    op.create_index("images_visibility", "images", ["visibility", "os_hidden", "k"])
    op.create_index("images_hidden", "images", ["os_hidden", "k"])
    op.create_index("copies_image", "copies", ["image_id"])
    op.create_index("copies_state", "copies", ["state", "not_before"])
    op.create_index("copies_project", "copies", ["project"])
    op.create_index("events_image", "events", ["image_id", "n"])
