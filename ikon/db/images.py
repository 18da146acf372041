"""Image rows and the ids that were ever given. Every list, look-up and change of a record is here."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, bindparam
from sqlalchemy.exc import IntegrityError

from ikon.db import tables, terms, usage
from ikon.model.image import UUID, Image, Importing, Member
from ikon.problems import ImageExists, StatusConflict

t = tables.images
COLUMNS = [c for c in t.c if c.name != "doc"]
NAMES = [c.name for c in COLUMNS]


class Doc(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the `doc` column holds: properties, tags, stores, members, import."""

    p: dict[str, str] = {}
    t: list[str] = []
    s: list[str] = []
    m: dict[str, Member] = {}
    i: Importing = Importing()


ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder(Doc)

INSERT_ID = sa.insert(tables.ids).values(id=bindparam("id"))
INSERT = sa.insert(t).values({c: bindparam(c.name) for c in t.c})
GET = sa.select(*COLUMNS, t.c.doc).where(t.c.id == bindparam("id"))
#: On the driver's cursor: a page of 1,000 takes half the time that it takes through Core's row and IN machinery.
BY_K = f"SELECT {', '.join(NAMES)}, doc FROM images WHERE k IN "  # noqa: S608  names of columns
BOOLEANS = [NAMES.index(name) for name in ("os_hidden", "protected")]
LOCK = GET.with_for_update()
UPDATE = sa.update(t).where(t.c.k == bindparam("the_k")).values({c: bindparam(c.name) for c in t.c if c.name not in ("k", "id")})


class TakenK(Exception):
    """Another image was created in this very microsecond."""


def _image(row: Sequence[Any]) -> Image:
    doc, values = DECODER.decode(row[-1]), list(row[:-1])
    for at in BOOLEANS:
        values[at] = bool(values[at])  # a driver may have them as numbers
    return Image(*(*values, doc.p, doc.t, doc.s, doc.m, doc.i))


def _values(image: Image) -> dict[str, Any]:
    values = {name: getattr(image, name) for name in NAMES}
    values["doc"] = ENCODER.encode(Doc(image.properties, image.tags, image.stores, image.members, image.importing)).decode()
    return values


def now_us() -> int:
    """This process's clock in microseconds since 1970. Orders and dates images; nothing's life depends on it."""
    return time.time_ns() // 1000


def insert(conn: Connection, image: Image) -> None:
    """Give an id for ever and keep the image under it. Raises ImageExists for an id given before, TakenK when k is in use."""
    try:
        conn.execute(INSERT_ID, {"id": image.id})
    except IntegrityError:
        raise ImageExists(image.id) from None
    put_back(conn, image)


def put_back(conn: Connection, image: Image) -> None:
    """Keep an image again that was deleted. Raises TakenK when its k is another's by now."""
    try:
        conn.execute(INSERT, _values(image))
    except IntegrityError:
        raise TakenK from None
    terms.change(conn, None, image)
    usage.note_image(conn, None, image)


def get(conn: Connection, image_id: str) -> Image | None:
    """The image with this id, or None. Ids are compared by byte."""
    return _found(conn, GET, image_id)


def lock(conn: Connection, image_id: str) -> Image | None:
    """The image, its row locked until the transaction ends: the first thing every change does."""
    return _found(conn, LOCK, image_id)


def _found(conn: Connection, query: sa.Select[Any], image_id: str) -> Image | None:
    if not UUID.fullmatch(image_id):  # nobody's, and not every database takes a NUL or any length in a look-up
        return None
    row = conn.execute(query, {"id": image_id}).first()
    return _image(row) if row else None


def by_k(conn: Connection, found: Sequence[int]) -> dict[int, Image]:
    """The images under these keys, as far as they are still there."""
    if not found:
        return {}
    rows = conn.exec_driver_sql(f"{BY_K}({', '.join(map(str, found))})").all()
    return {row[0]: _image(row) for row in rows}


def by_id(conn: Connection, after: str | None, ascending: bool, limit: int) -> list[Image]:
    """The images whose ids come next in order of their bytes."""
    query = sa.select(*COLUMNS, t.c.doc).order_by(t.c.id if ascending else t.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(t.c.id > after if ascending else t.c.id < after)
    return [_image(row) for row in conn.execute(query)]


def after(conn: Connection, k: int, limit: int) -> list[Image]:
    """The images created next after k, oldest first."""
    return [_image(row) for row in conn.execute(sa.select(*COLUMNS, t.c.doc).where(t.c.k > k).order_by(t.c.k).limit(limit))]


def save(conn: Connection, before: Image, after: Image, *, touch: bool = True) -> Image:
    """Write a locked image's new state, `before` being what was read under the lock; version and updated_at move.

    touch False: what changed is no part of the record as it is shown, and updated_at stays. Returns the image as it is now.
    """
    updated = max(now_us(), before.updated) if touch else before.updated
    after = msgspec.structs.replace(after, version=before.version + 1, updated=updated)
    values = _values(after)
    del values["k"], values["id"]
    conn.execute(UPDATE, {**values, "the_k": after.k})
    terms.change(conn, before, after)
    usage.note_image(conn, before, after)
    return after


def move(conn: Connection, image: Image, old: str, new: str, **changes: Any) -> Image:
    """Take a locked image from one status to another, with what else changes. Raises StatusConflict when it is not in `old`."""
    if image.status != old:
        raise StatusConflict(f"Image status transition from {image.status} to {new} is not allowed")
    return save(conn, image, msgspec.structs.replace(image, status=new, **changes))


def delete(conn: Connection, image: Image) -> None:
    """Forget a locked image's record. Its id stays given."""
    conn.execute(sa.delete(t).where(t.c.k == image.k))
    terms.change(conn, image, None)
    usage.note_image(conn, image, None)
