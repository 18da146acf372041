"""What the processes that run by themselves did last: one row each, whichever server runs them."""

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import missing, tables
from ikon.db.engine import now_ms
from ikon.model.periodic import Parts, Report

t = tables.periodic_runs


def keep(conn: Connection, name: str, took_ms: int, parts: Parts, failed: str | None) -> Report:
    """Record that a run has just ended."""
    values: dict[str, Any] = {
        "took_ms": took_ms,
        "parts": msgspec.json.encode(parts).decode(),
        "failed": failed and failed[:1000],
        "at": now_ms(conn),
    }
    if not conn.execute(sa.update(t).where(t.c.name == name).values(**values)).rowcount:
        missing.insert(conn, t, name=name, **values)
    return Report(name, values["at"], took_ms, parts, failed)


def last(conn: Connection) -> list[Report]:
    """The last run of each, by name."""
    rows = conn.execute(sa.select(t.c.name, t.c.at, t.c.took_ms, t.c.parts, t.c.failed).order_by(t.c.name))
    return [Report(name, at, took_ms, msgspec.json.decode(parts, type=Parts), failed) for name, at, took_ms, parts, failed in rows]


def forget(conn: Connection, over_ms: int) -> int:
    """Drop what nobody has run for that time: its node is gone."""
    return conn.execute(sa.delete(t).where(t.c.at < now_ms(conn) - over_ms)).rowcount
