"""Built-in users."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"


def text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def table_options() -> dict[str, Any]:
    """Text that compares by byte, blanks at its end included; MariaDB and MySQL have different names for that."""
    mariadb = getattr(op.get_bind().dialect, "is_mariadb", False)
    collation = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
    return {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": collation}


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
