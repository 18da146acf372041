"""Room that is promised to work in progress, on disks and in quotas: what rows say, so that no promise outlives its work."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from ikon.db import missing, tables

t, j, i = tables.copies, tables.jobs, tables.instances
places = tables.job_limits
#: What running jobs were promised for copies that they have not begun. Few run at once.
AHEAD = sa.select(j.c.image_id, j.c.input, j.c.checkpoint, i.c.node).join(i, i.c.id == j.c.instance)
AHEAD = AHEAD.where(j.c.state == "running", j.c.checkpoint.like('%"promised":%'))
AHEAD_OF = AHEAD.where(j.c.project == bindparam("project"))
#: What is being written into stores, as far as it goes onto disks of a node, or onto shared ones.
WRITING = sa.select(t.c.id, t.c.image_id, t.c.store, t.c.url, t.c.reserved).where(
    t.c.state == "writing", t.c.store.in_(bindparam("stores", expanding=True)), sa.or_(t.c.node.is_(None), t.c.node == bindparam("node"))
)
TOUCH = sa.update(places).where(places.c.name == bindparam("place")).values(n=places.c.n + 1)  # on Galera only a write is certified


class Promise(NamedTuple):
    """A copy being written, and the bytes that it was promised."""

    id: str
    image_id: str
    store: str
    url: str
    reserved: int


class Ahead(NamedTuple):
    """Bytes that a running job on a node was promised for a copy in a store, which it has yet to begin."""

    image_id: str
    store: str
    node: str
    size: int


def promises(conn: Connection, stores: Sequence[str], node: str) -> list[Promise]:
    """What is being written into these stores, as far as it goes onto disks of this node, or onto shared ones."""
    return [Promise(*row) for row in conn.execute(WRITING, {"stores": list(stores), "node": node})]


def ahead(conn: Connection, project: str | None = None) -> list[Ahead]:
    """What jobs were promised beside what is being written: of all projects, or of one."""
    found = list(_ahead(conn, project))
    if not found:
        return []
    begun = sa.select(t.c.image_id, t.c.store).where(t.c.state == "writing", t.c.image_id.in_({each.image_id for each in found}))
    writing = {(row[0], row[1]) for row in conn.execute(begun)}
    return [each for each in found if (each.image_id, each.store) not in writing]


def _ahead(conn: Connection, project: str | None) -> Iterator[Ahead]:
    found = conn.execute(AHEAD) if project is None else conn.execute(AHEAD_OF, {"project": project})
    for image_id, given, checkpoint, node in found:
        for store in msgspec.json.decode(given)["stores"]:
            yield Ahead(image_id, store, node, msgspec.json.decode(checkpoint)["promised"])


def lock(conn: Connection, names: Sequence[str]) -> None:
    """Have whoever promises room in one of these places wait until this transaction has ended. Images are locked before, usage after."""
    for place in sorted(names):
        if not conn.execute(TOUCH, {"place": place}).rowcount:
            missing.insert(conn, places, name=place, n=0)
            conn.execute(TOUCH, {"place": place})
