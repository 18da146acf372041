"""Column types and table options that migrations share, frozen: what a past migration made does not change."""

from typing import Any

import sqlalchemy as sa
from alembic import op


def text(length: int) -> sa.types.TypeEngine[str]:
    """Text that compares and sorts by byte on every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def table_options() -> dict[str, Any]:
    """Text that compares by byte, blanks at its end included; MariaDB and MySQL have different names for that."""
    mariadb = getattr(op.get_bind().dialect, "is_mariadb", False)
    collation = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
    return {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": collation}
