"""Room that is promised to work in progress: what the rows of copies being written say, so that no promise outlives its work."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import missing, tables

t = tables.copies
turns = tables.job_limits


class Promise(NamedTuple):
    """A copy being written, and the bytes that it was promised."""

    id: str
    store: str
    url: str
    reserved: int


def promises(conn: Connection, stores: Sequence[str], node: str) -> list[Promise]:
    """What is being written into these stores, as far as it goes onto disks of this node, or onto shared ones."""
    here = sa.or_(t.c.node.is_(None), t.c.node == node)
    query = sa.select(t.c.id, t.c.store, t.c.url, t.c.reserved).where(t.c.state == "writing", t.c.store.in_(stores), here)
    return [Promise(*row) for row in conn.execute(query)]


def lock(conn: Connection, places: Sequence[str]) -> None:
    """Have whoever promises room in one of these places wait until this transaction has ended. Images are locked before, usage after."""
    for place in sorted(places):
        touch = sa.update(turns).where(turns.c.name == place).values(n=turns.c.n + 1)  # on Galera only a write is certified
        if not conn.execute(touch).rowcount:
            missing.insert(conn, turns, name=place, n=0)
            conn.execute(touch)
