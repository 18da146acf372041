"""Processes alive, and roles that one of them holds. A lease is measured by the database's clock alone."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import missing, tables
from ikon.db.engine import now_ms, now_ms_sql
from ikon.problems import Interrupted, LeaseLost, Problem

t = tables.instances
#: How long a renewal holds, in ms. It is asked for every 5 s.
LEASE_MS = 30_000
#: On SQLite one process is all there is: its lease never ends, and others' end when it starts.
FOR_EVER = 2**62


def alive(instance: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Condition: the instance named by a column has a lease that is not over."""
    return sa.exists().where(t.c.id == instance, t.c.lease_until > now_ms_sql())


def known(instance: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Condition: the instance named by a column has not left, and nobody has proven that it ended."""
    return sa.exists().where(t.c.id == instance)


def enlist(conn: Connection, me: str, node: str, *, alone: bool) -> None:
    """Begin a lease. alone: no other process can be alive, so that all others' leases end now."""
    if alone:
        conn.execute(sa.delete(t))
    until = sa.literal(FOR_EVER) if alone else now_ms_sql() + LEASE_MS
    conn.execute(sa.insert(t).values(id=me, node=node, lease_until=until, started=now_ms_sql()))


def renew(conn: Connection, me: str) -> bool:
    """Prolong the lease. False when the row is gone: somebody proved us dead, and what we owned has been taken."""
    return conn.execute(sa.update(t).where(t.c.id == me).values(lease_until=now_ms_sql() + LEASE_MS)).rowcount == 1


def retire(conn: Connection, instance: str) -> None:
    """End an instance that is known to be dead, or is leaving."""
    conn.execute(sa.delete(t).where(t.c.id == instance))


def on_node(conn: Connection, node: str) -> list[str]:
    """Ids of the instances recorded on one node."""
    return list(conn.execute(sa.select(t.c.id).where(t.c.node == node)).scalars())


def is_gone(conn: Connection, instance: str) -> bool:
    """Whether an instance is known to have ended: it left, or was proven dead. One whose lease ran out may only be paused."""
    return conn.execute(sa.select(t.c.id).where(t.c.id == instance)).first() is None


def why_gone(conn: Connection, instance: str, then: str = "") -> Problem:
    """What befell a process that is not alive, as those hear it whose work it had. then: what they should do."""
    kind = Interrupted if is_gone(conn, instance) else LeaseLost
    return kind(f"{str(kind()).rstrip('.')}; {then}" if then else "")


def state(conn: Connection, instance: str | None) -> str:
    """Whether an instance is "alive", "silent" (its lease is over; it may be paused) or "gone"."""
    found = conn.execute(sa.select(t.c.lease_until > now_ms_sql()).where(t.c.id == instance)).first()
    return "gone" if found is None else "alive" if found[0] else "silent"


def serves(conn: Connection, node: str) -> bool:
    """Whether any process is alive on a node."""
    return conn.execute(sa.select(t.c.id).where(t.c.node == node, t.c.lease_until > now_ms_sql()).limit(1)).first() is not None


def take_lease(conn: Connection, name: str, me: str) -> bool:
    """Become, or stay, the one holder of a role; a dead holder's role is free."""
    held = tables.leases
    free = sa.or_(held.c.instance == me, ~alive(held.c.instance))
    if conn.execute(sa.update(held).where(held.c.name == name, free).values(instance=me)).rowcount:
        return True
    return missing.insert(conn, held, name=name, instance=me)


def forget(conn: Connection, over_ms: int, limit: int) -> int:
    """Drop instances whose leases ended longer ago than that and that own nothing, and roles of instances that are gone. How many."""
    c, j, held = tables.copies.c, tables.jobs.c, tables.leases
    over = t.c.lease_until < now_ms(conn) - over_ms
    writes = sa.exists().where(c.state.in_(("writing", "deleting")), c.instance == t.c.id)
    works = sa.exists().where(j.instance == t.c.id, j.state == "running")
    found = list(conn.execute(sa.select(t.c.id).where(over, ~writes, ~works).limit(limit)).scalars())
    count = conn.execute(sa.delete(t).where(t.c.id.in_(found), over)).rowcount if found else 0
    return count + conn.execute(sa.delete(held).where(~known(held.c.instance))).rowcount
