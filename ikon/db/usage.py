"""Bytes charged to each project. Rows are kept only where a limit is set; touched last in a transaction, since many share them."""

import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import missing, tables

t = tables.usage
c = tables.copies
#: Not known: counted anew from the copies when it is next needed.
UNKNOWN = -1


def charge(conn: Connection, project: str, by: int) -> int:
    """Charge a project with more (or less), after its copies say so, and return what it holds then. Its row stays locked."""
    query = sa.select(t.c.bytes).where(t.c.project == project).with_for_update()
    row = conn.execute(query).first()
    if row is None:
        missing.insert(conn, t, project=project, bytes=UNKNOWN)
        row = conn.execute(query).one()
    total = count(conn, project) if row[0] == UNKNOWN else row[0] + by
    conn.execute(sa.update(t).where(t.c.project == project).values(bytes=total))
    return int(total)


def projects(conn: Connection, after: str, limit: int) -> list[str]:
    """Projects that have a row, by name, behind `after`."""
    return list(conn.execute(sa.select(t.c.project).where(t.c.project > after).order_by(t.c.project).limit(limit)).scalars())


def mend(conn: Connection, project: str) -> int:
    """Make a project's row what its copies add up to. Returns the bytes by which it was wrong, 0 where it was right or not known."""
    row = conn.execute(sa.select(t.c.bytes).where(t.c.project == project).with_for_update()).first()
    if row is None:
        return 0
    total = count(conn, project)  # whoever changes a copy charges it before the commit, and so waits for this row or is counted
    if row[0] != total:
        conn.execute(sa.update(t).where(t.c.project == project).values(bytes=total))
    return 0 if row[0] == UNKNOWN else total - int(row[0])


def count(conn: Connection, project: str) -> int:
    """What the project's copies add up to."""
    return int(conn.execute(sa.select(sa.func.coalesce(sa.func.sum(c.c.reserved), 0)).where(c.c.project == project)).scalar_one())


def doubt(conn: Connection) -> None:
    """Have every row counted anew when it is needed: limits may have been off for a while."""
    conn.execute(sa.update(t).values(bytes=UNKNOWN))
