"""The trash: deleted images with all that is needed to have them back. Their copies stay `ready`; nothing but this file looks here.

A row is locked before the image is put back or purged, so that of those who want either at once only one finds it.
"""

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from ikon.db import tables
from ikon.db.engine import now_ms, now_ms_sql
from ikon.model.image import Image
from ikon.model.trash import Place, Trashed

t = tables.trash


#: A field that images get later needs a default: records that are here by then lack it.
ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder(Image)
COLUMNS = (t.c.record, t.c.deleted, t.c.due)
LOCK = sa.select(*COLUMNS).where(t.c.id == bindparam("id")).with_for_update()


def put(conn: Connection, image: Image, keep_ms: int) -> None:
    """Keep a deleted image for that time."""
    values = {"id": image.id, "digests": image.digests, "record": ENCODER.encode(image).decode()}
    conn.execute(sa.insert(t).values(**values, deleted=now_ms_sql(), due=now_ms_sql() + keep_ms))


def lock(conn: Connection, image_id: str) -> Trashed | None:
    """An image in the trash, its row locked until the transaction ends; None when it is not there."""
    row = conn.execute(LOCK, {"id": image_id}).first()
    return Trashed(DECODER.decode(row[0]), *row[1:]) if row else None


def take_out(conn: Connection, image_id: str) -> None:
    """Drop the row of an image that was put back or purged."""
    conn.execute(sa.delete(t).where(t.c.id == image_id))


def page(conn: Connection, after: Place | None, limit: int) -> list[Trashed]:
    """Images in the trash, those that stay longest first, behind a place."""
    query = sa.select(*COLUMNS).order_by(t.c.due.desc(), t.c.id.desc()).limit(limit)
    if after is not None:
        due, image_id = after
        query = query.where(sa.or_(t.c.due < due, sa.and_(t.c.due == due, t.c.id < image_id)))
    return [Trashed(DECODER.decode(record), deleted, due) for record, deleted, due in conn.execute(query)]


def due(conn: Connection, limit: int) -> list[str]:
    """Ids of images whose time is over."""
    return list(conn.execute(sa.select(t.c.id).where(t.c.due <= now_ms(conn)).order_by(t.c.due, t.c.id).limit(limit)).scalars())


def until(conn: Connection, moment: int, limit: int) -> list[str]:
    """Ids of images that came to the trash at that time or before."""
    return list(conn.execute(sa.select(t.c.id).where(t.c.deleted <= moment).order_by(t.c.due, t.c.id).limit(limit)).scalars())


def size(conn: Connection) -> tuple[int, int]:
    """How many images are in the trash, and how many bytes their copies have."""
    c = tables.copies.c
    images = conn.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()
    total = sa.select(sa.func.coalesce(sa.func.sum(c.size), 0)).join_from(t, tables.copies, c.image_id == t.c.id)
    return int(images), int(conn.execute(total).scalar_one())
