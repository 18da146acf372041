"""Insert a row unless its key is there, without failing the transaction; each database has its own words for it."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite


def insert(conn: Connection, table: sa.Table, **values: Any) -> bool:
    """Insert the row. False when its key is taken; a transaction that is inserting the same key is waited for."""
    statement: Any
    if conn.dialect.name == "postgresql":
        statement = postgresql.insert(table).on_conflict_do_nothing()
    elif conn.dialect.name == "sqlite":
        statement = sqlite.insert(table).on_conflict_do_nothing()
    else:
        statement = sa.insert(table).prefix_with("IGNORE")
    counted = {"preserve_rowcount": True}  # SQLAlchemy asks psycopg for the count of an INSERT only where told to
    return conn.execute(statement.values(**values), execution_options=counted).rowcount == 1
