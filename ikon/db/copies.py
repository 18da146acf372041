"""Copies: one row for every place that has, gets or loses an image's bytes; and the digests of the image's blocks.

A row is committed before the first byte is written and goes only when the bytes are known to be gone.
States: writing -> ready -> suspect -> bad, and from each of them -> deleting. Every step is a compare-and-set. Bytes that were found
without a row get one too: stray, then deleting. Staged data whose source broke off: writing -> part -> deleting. A place that a caller
named: unchecked -> ready or bad; while it is unchecked, nothing there is ours to serve or to delete.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from ikon.db import instances, missing, tables, usage
from ikon.db.engine import now_ms, now_ms_sql

t = tables.copies
d = tables.block_digests
READABLE = ("ready", "suspect")
#: States of what an image's record calls its locations.
LISTED = ("unchecked", "ready", "suspect", "bad")
#: States of staged data that an import can go on from.
STAGED = ("part", "ready")
#: States in which a process may be at work on a copy.
AT_WORK = ("writing", "deleting")
#: No deletion is put off for longer than this, in ms.
LONGEST_MS = 600_000


class Copy(msgspec.Struct, frozen=True):
    """One copy of an image's bytes. reserved: bytes charged to `project`. instance: the process at work on it, None when it is anyone's.

    metadata: JSON, what a caller said of the place that it named.
    """

    id: str
    image_id: str
    store: str
    node: str | None
    url: str
    state: str
    instance: str | None
    project: str | None
    reserved: int
    size: int | None
    created: int
    verified_at: int | None
    tries: int
    not_before: int
    metadata: str | None = None


COLUMNS = list(t.c)
INSERT = sa.insert(t).values({c: bindparam(c.name) for c in COLUMNS})
OF_IMAGE = sa.select(*COLUMNS).where(t.c.image_id == bindparam("image_id")).order_by(t.c.created, t.c.id)
GET = sa.select(*COLUMNS).where(t.c.id == bindparam("id"))
LOCK = GET.with_for_update()
FINISH = (
    sa.update(t)
    .where(t.c.id == bindparam("copy_id"), t.c.state == "writing", t.c.instance == bindparam("me"))
    .values(state="ready", instance=None, size=bindparam("bytes"), reserved=bindparam("bytes"), verified_at=now_ms_sql())
)


#: Whose digests count for an image, be it in the trash.
DIGESTS_NEEDED = sa.union_all(*(sa.select(of.c.digests).where(of.c.id == bindparam("id")) for of in (tables.images, tables.trash)))


def intend(conn: Connection, copy: Copy) -> None:
    """Commit to writing bytes under this copy's URL."""
    conn.execute(INSERT, msgspec.structs.asdict(copy))
    usage.note_copy(conn, copy.project, copy.image_id, copy.store, copy.reserved)


def get(conn: Connection, copy_id: str) -> Copy | None:
    """One copy, or None."""
    row = conn.execute(GET, {"id": copy_id}).first()
    return Copy(*row) if row else None


def of_image(conn: Connection, image_id: str) -> list[Copy]:
    """All copies of an image in any state, oldest first."""
    return [Copy(*row) for row in conn.execute(OF_IMAGE, {"image_id": image_id})]


def listed(conn: Connection, image_ids: Sequence[str]) -> dict[str, list[Copy]]:
    """The copies that the records of these images call their locations, oldest first."""
    found: dict[str, list[Copy]] = {}
    query = sa.select(*COLUMNS).where(t.c.image_id.in_(image_ids), t.c.state.in_(LISTED)).order_by(t.c.created, t.c.id)
    for row in conn.execute(query):
        found.setdefault(row[1], []).append(Copy(*row))
    return found


def finish(conn: Connection, copy_id: str, me: str, size: int) -> bool:
    """Make a copy that this instance was writing ready. False when it is not this instance's any more."""
    return _resized(conn, copy_id, size, FINISH, {"copy_id": copy_id, "me": me, "bytes": size})


def checked(conn: Connection, copy_id: str, size: int, reserved: int) -> bool:
    """A place that a caller named has the image's bytes, of which so many are charged. False when it is not unchecked any more."""
    seen = sa.update(t).where(t.c.id == copy_id, t.c.state == "unchecked")
    return _resized(conn, copy_id, reserved, seen.values(state="ready", size=size, reserved=reserved, verified_at=now_ms_sql()))


def place(conn: Connection, copy: Copy) -> bool:
    """Record a place that a caller names. False when a row names it already, by the id that was made of it."""
    return missing.insert(conn, t, **msgspec.structs.asdict(copy))


def refuse(conn: Connection, copy_id: str, *, keep: bool) -> bool:
    """A place that a caller named has not the image's bytes, or none that can be read. False when it is not unchecked any more.

    keep: in the record; only where nothing would ever be deleted there.
    """
    unchecked = sa.and_(t.c.id == copy_id, t.c.state == "unchecked")
    return conn.execute(sa.update(t).where(unchecked).values(state="bad") if keep else sa.delete(t).where(unchecked)).rowcount == 1


def check_again(conn: Connection, copy_id: str) -> bool:
    """Have a place looked at again that was refused. False when there is none such."""
    return conn.execute(sa.update(t).where(t.c.id == copy_id, t.c.state == "bad").values(state="unchecked")).rowcount == 1


def describe(conn: Connection, copy_id: str, metadata: str | None) -> None:
    """Keep what a caller says of a place."""
    conn.execute(sa.update(t).where(t.c.id == copy_id).values(metadata=metadata))


def keep_part(conn: Connection, copy_id: str, me: str, size: int) -> bool:
    """Keep what has come of staged data whose source broke off. False when it is not this instance's any more."""
    mine = sa.update(t).where(t.c.id == copy_id, t.c.state == "writing", t.c.instance == me)
    return _resized(conn, copy_id, size, mine.values(state="part", instance=None, size=size, reserved=size, verified_at=now_ms_sql()))


def claim_undo(conn: Connection, copy_id: str, me: str) -> str:
    """Try to take an attempt of this instance from writing to deleting.

    "claimed": done; its bytes are ours to delete, and its image to be queued. "condemned": somebody was before us, with a DELETE or because
    our lease had run out; its bytes are ours to delete, for who took it over cannot know when we have stopped, but its image may be
    another attempt's by now. "finished": it is ready, touch nothing. "lost": it is gone, or was never recorded.
    """
    moved = conn.execute(
        sa.update(t).where(t.c.id == copy_id, t.c.state == "writing", t.c.instance == me).values(state="deleting")
    ).rowcount
    if moved:
        return "claimed"
    copy = get(conn, copy_id)
    if copy is None:
        return "lost"
    return "condemned" if copy.state == "deleting" else "finished"


def claim_ownerless(conn: Connection, copy: Copy) -> bool:
    """Take a writing copy whose instance is dead to deleting. False when somebody else did, or the instance lives after all."""
    taken = sa.update(t).where(t.c.id == copy.id, t.c.state == "writing", t.c.instance == copy.instance)
    return conn.execute(taken.where(~instances.alive(t.c.instance)).values(state="deleting")).rowcount == 1


def condemn(conn: Connection, copy: Copy) -> bool:
    """Take a copy that nobody writes to deleting; one that is being written keeps its writer, who deletes the bytes when it has stopped.

    A place that nobody has looked at yet is not ours to delete: its row goes. True where there is something to delete.
    """
    if copy.state == "unchecked":
        conn.execute(sa.delete(t).where(t.c.id == copy.id, t.c.state == "unchecked"))
        drop_digests(conn, copy.image_id, copy.id)
        return False
    return conn.execute(sa.update(t).where(t.c.id == copy.id, t.c.state != "deleting").values(state="deleting")).rowcount == 1


def suspect(conn: Connection, copy_id: str) -> bool:
    """Mark a copy that gave a wrong or no byte. True for the first who does."""
    return conn.execute(sa.update(t).where(t.c.id == copy_id, t.c.state == "ready").values(state="suspect")).rowcount == 1


def reserve(conn: Connection, copy_id: str, me: str, reserved: int) -> bool:
    """Record how many bytes a copy being written is charged with. False when it is not ours any more."""
    mine = sa.update(t).where(t.c.id == copy_id, t.c.instance == me, t.c.state == "writing")
    return _resized(conn, copy_id, reserved, mine.values(reserved=reserved))


def _resized(conn: Connection, copy_id: str, size: int, change: sa.Update, values: dict[str, Any] | None = None) -> bool:
    """Make a change after which a copy is charged with that size, if it is still to be made. Whether it was."""
    row = conn.execute(LOCK, {"id": copy_id}).first() if usage.is_counted(conn) else None
    if conn.execute(change, values or {}).rowcount != 1:
        return False
    if row is not None:
        was = Copy(*row)
        usage.note_copy(conn, was.project, was.image_id, was.store, size - was.reserved)
    return True


def give(conn: Connection, image_id: str, project: str | None) -> None:
    """Charge another project with all copies of a locked image."""
    for row in conn.execute(OF_IMAGE.with_for_update(), {"image_id": image_id}).all():  # one that is being written may be promised more now
        copy = Copy(*row)
        usage.note_copy(conn, copy.project, image_id, copy.store, -copy.reserved)
        usage.note_copy(conn, project, image_id, copy.store, copy.reserved)
    conn.execute(sa.update(t).where(t.c.image_id == image_id).values(project=project))


def release(conn: Connection, copy_id: str, again_in_ms: int) -> None:
    """Give a copy whose deletion did not end to whoever comes, not before that many ms from now."""
    later = now_ms_sql() + min(again_in_ms, LONGEST_MS)
    conn.execute(
        sa.update(t).where(t.c.id == copy_id, t.c.state == "deleting").values(instance=None, tries=t.c.tries + 1, not_before=later)
    )


def forget(conn: Connection, copy: Copy) -> Copy | None:
    """Remove the row of a copy whose bytes are gone, with digests that nobody needs any more. Returns the row, None if it was gone."""
    row = conn.execute(LOCK, {"id": copy.id}).first()
    if row is None or conn.execute(sa.delete(t).where(t.c.id == copy.id, t.c.state == "deleting")).rowcount == 0:
        return None
    needed = conn.execute(DIGESTS_NEEDED, {"id": copy.image_id}).first()
    if needed is None:
        conn.execute(sa.delete(d).where(d.c.image_id == copy.image_id))
    elif needed[0] != copy.id:
        conn.execute(sa.delete(d).where(d.c.image_id == copy.image_id, d.c.copy_id == copy.id))
    gone = Copy(*row)
    usage.note_copy(conn, gone.project, gone.image_id, gone.store, -gone.reserved)
    return gone


def to_delete(conn: Connection, me: str, node: str, store: str, limit: int) -> list[Copy]:
    """A store's copies in deleting that are due and nobody's: without an instance, or of a dead one. Only those in reach of this node."""
    now = now_ms_sql()
    is_due = sa.or_(t.c.not_before <= now, t.c.not_before > now + LONGEST_MS)  # the latter since a clock was put back
    due = sa.select(*COLUMNS).where(t.c.state == "deleting", t.c.store == store, is_due, sa.or_(t.c.node.is_(None), t.c.node == node))
    nobodys = sa.or_(t.c.instance.is_(None), ~instances.alive(t.c.instance))
    return [Copy(*row) for row in conn.execute(due.where(nobodys).order_by(t.c.not_before).limit(limit))]


def ownerless(conn: Connection, limit: int, *, proven: bool) -> list[Copy]:
    """Copies being written by an instance that is dead. proven: of those known to have ended, not of those fallen silent."""
    dead = ~(instances.known if proven else instances.alive)(t.c.instance)
    query = sa.select(*COLUMNS).where(t.c.state == "writing", dead).limit(limit)
    return [Copy(*row) for row in conn.execute(query)]


def mine(conn: Connection, me: str) -> list[Copy]:
    """All copies that this instance is recorded to be at work on."""
    return [Copy(*row) for row in conn.execute(sa.select(*COLUMNS).where(t.c.state.in_(AT_WORK), t.c.instance == me))]


def waiting(conn: Connection) -> dict[str, int]:
    """How many copies wait for the deletion of their bytes, by store."""
    query = sa.select(t.c.store, sa.func.count()).where(t.c.state == "deleting").group_by(t.c.store)
    return {row[0]: row[1] for row in conn.execute(query)}


def left_over(conn: Connection, store: str, before: int, limit: int) -> list[Copy]:
    """Data staged in a store that no import will use: its image is gone or has other data, or it was staged before that time in ms."""
    image = tables.images.c
    waits = image.status.in_(("queued", "uploading"))
    useless = sa.or_(image.id.is_(None), sa.and_(~waits, image.status != "importing"), sa.and_(waits, t.c.verified_at <= before))
    staged = sa.select(*COLUMNS).join_from(t, tables.images, image.id == t.c.image_id, isouter=True)
    staged = staged.where(t.c.store == store, t.c.state.in_(STAGED), useless).limit(limit)
    return [Copy(*row) for row in conn.execute(staged)]


def without_row(conn: Connection, store: str, urls: Sequence[str]) -> set[str]:
    """Which of these URLs no copy in that store has."""
    known = conn.execute(sa.select(t.c.url).where(t.c.store == store, t.c.url.in_(urls))).scalars()
    return set(urls) - set(known)


def adopt(conn: Connection, copy: Copy, in_ms: int) -> bool:
    """Give bytes that no row names a row of their own: stray, to be deleted after that time. False when the row is there by now."""
    values = msgspec.structs.asdict(copy) | {"state": "stray", "not_before": now_ms(conn) + in_ms}
    return missing.insert(conn, t, **values)


def condemn_strays(conn: Connection, limit: int) -> int:
    """Take strays whose time has come to deleting; returns how many."""
    due = sa.and_(t.c.state == "stray", t.c.not_before <= now_ms(conn))
    found = list(conn.execute(sa.select(t.c.id).where(due).limit(limit)).scalars())
    return conn.execute(sa.update(t).where(t.c.id.in_(found), due).values(state="deleting")).rowcount if found else 0


def add_digests(conn: Connection, image_id: str, copy_id: str, gib: int, digests: bytes) -> None:
    """Keep the block digests of one GiB."""
    if conn.execute(GET.with_for_update(), {"id": copy_id}).first() is None:
        return  # nobody would ever forget them
    conn.execute(sa.insert(d).values(image_id=image_id, copy_id=copy_id, gib=gib, digests=digests))


def digests(conn: Connection, image_id: str, copy_id: str, gib: int) -> bytes:
    """The digests of one GiB, 32 bytes for each MiB; empty when there are none."""
    found: Any = conn.execute(sa.select(d.c.digests).where(d.c.image_id == image_id, d.c.copy_id == copy_id, d.c.gib == gib)).scalar()
    return bytes(found or b"")


def are_same(conn: Connection, image_id: str, one: str | None, other: str) -> bool:
    """Whether the block digests of two copies of an image say that their bytes are the same. Compared where they lie: there are many."""
    a, b = d.alias(), d.alias()
    both = (a.c.image_id == b.c.image_id, a.c.gib == b.c.gib, a.c.digests == b.c.digests)
    same = (
        sa.select(sa.func.count())
        .select_from(a.join(b, sa.and_(*both)))
        .where(a.c.image_id == image_id, a.c.copy_id == one, b.c.copy_id == other)
    )
    count = sa.select(sa.func.count()).where(d.c.image_id == image_id)
    found = [conn.execute(query).scalar_one() for query in (same, count.where(d.c.copy_id == one), count.where(d.c.copy_id == other))]
    return len(set(found)) == 1


def drop_digests(conn: Connection, image_id: str, copy_id: str) -> None:
    """Forget the block digests that one attempt made."""
    conn.execute(sa.delete(d).where(d.c.image_id == image_id, d.c.copy_id == copy_id))
