"""The trash, and what the processes that run by themselves did last."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ikon.db.migrations.options import table_options, text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    options = table_options()
    long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    op.create_table(
        "trash",
        sa.Column("id", text(36), primary_key=True),
        sa.Column("deleted", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),  # when it is purged
        sa.Column("digests", text(36)),  # as in `images`
        sa.Column("record", long_text, nullable=False),  # JSON: the whole image as it was
        **options,
    )
    op.create_table(
        "periodic_runs",
        sa.Column("name", text(300), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("took_ms", sa.BigInteger, nullable=False),
        sa.Column("parts", long_text, nullable=False),  # JSON: what was looked at and mended, by kind
        sa.Column("failed", text(1000)),
        **options,
    )
    op.create_index("trash_due", "trash", ["due", "id"])
    op.create_index("copies_store", "copies", ["store", "id"])
    op.create_index("jobs_finished", "jobs", ["finished"])
    op.drop_column("jobs", "expires")  # never written: a job's end and the setting say it
