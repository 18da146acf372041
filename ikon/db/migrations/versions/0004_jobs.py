"""Jobs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ikon.db.migrations.options import table_options, text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    options = table_options()
    long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    op.create_table(
        "jobs",
        sa.Column("id", text(36), primary_key=True),
        sa.Column("kind", text(32), nullable=False),
        sa.Column("image_id", text(36)),
        sa.Column("request_id", text(64)),
        sa.Column("user", text(255)),
        sa.Column("input", long_text, nullable=False),  # JSON
        sa.Column("queue", text(80), nullable=False),  # which processes may run it
        sa.Column("project", text(255), nullable=False),  # whose limits it counts against; "": nobody's
        sa.Column("store", text(64), nullable=False),
        sa.Column("state", text(12), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("turn", sa.BigInteger, nullable=False),  # the order inside a priority, fair between projects
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("since", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("checkpoint", long_text),  # JSON
        sa.Column("instance", text(80)),  # the process at work on it
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("deadline", sa.BigInteger),
        sa.Column("cancel", sa.Boolean, nullable=False),
        sa.Column("done_bytes", sa.BigInteger),
        sa.Column("total_bytes", sa.BigInteger),
        sa.Column("result", long_text),
        sa.Column("reason", long_text),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger),
        sa.Column("finished", sa.BigInteger),
        sa.Column("expires", sa.BigInteger),
        **options,
    )

    op.create_table(
        "job_limits",
        sa.Column("name", text(300), primary_key=True),
        sa.Column("n", sa.BigInteger, nullable=False),
        **options,
    )
    op.create_index("jobs_head", "jobs", ["state", "queue", "priority", "turn", "id", "project", "store"])
    op.create_index("jobs_project", "jobs", ["project", "state", "queue", "priority", "turn"])
    op.create_index("jobs_instance", "jobs", ["instance", "state"])
    op.create_index("jobs_image", "jobs", ["image_id", "created"])
