"""Image rows and the ids that were ever given. Every list, look-up and change of a record is here."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, bindparam
from sqlalchemy.exc import IntegrityError

from ikon.context import Context
from ikon.db import tables, terms
from ikon.model.image import UUID, Image, Member
from ikon.model.listing import Listing
from ikon.problems import BadValue, ImageExists, StatusConflict, TooSlow

t = tables.images
COLUMNS = [c for c in t.c if c.name != "doc"]
NAMES = [c.name for c in COLUMNS]
#: Rows read at a time while a filter is looked for that no index knows.
SLICE = 500


class Doc(msgspec.Struct, frozen=True):
    """What the `doc` column holds: properties, tags, stores, members."""

    p: dict[str, str] = {}
    t: list[str] = []
    s: list[str] = []
    m: dict[str, Member] = {}


ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder(Doc)

INSERT_ID = sa.insert(tables.ids).values(id=bindparam("id"))
INSERT = sa.insert(t).values({c: bindparam(c.name) for c in t.c})
GET = sa.select(*COLUMNS, t.c.doc).where(t.c.id == bindparam("id"))
LOCK = GET.with_for_update()
UPDATE = sa.update(t).where(t.c.k == bindparam("the_k")).values({c: bindparam(c.name) for c in t.c if c.name not in ("k", "id")})


class TakenK(Exception):
    """Another image was created in this very microsecond."""


def _image(row: Sequence[Any]) -> Image:
    doc = DECODER.decode(row[-1])
    return Image(*(*row[:-1], doc.p, doc.t, doc.s, doc.m))


def _values(image: Image) -> dict[str, Any]:
    values = {name: getattr(image, name) for name in NAMES}
    values["doc"] = ENCODER.encode(Doc(image.properties, image.tags, image.stores, image.members)).decode()
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
    try:
        conn.execute(INSERT, _values(image))
    except IntegrityError:
        raise TakenK from None
    terms.change(conn, None, image)


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


def page(conn: Connection, ctx: Context, listing: Listing, marker: Image | None, deadline_s: float) -> list[Image]:
    """The images of one list page, complete unless there are no more. Raises TooSlow past the deadline (seconds of CLOCK_MONOTONIC)."""
    found: list[Image] = []
    size = min(max(listing.limit, SLICE if listing.tests else 1), 1000)
    while len(found) < listing.limit:
        rows = _slice(conn, ctx, listing, marker, size)
        for row in rows:
            image = _image(row)
            if all(test(image) for test in listing.tests):
                found.append(image)
        if len(rows) < size:
            break
        marker = _image(rows[-1])
        if time.monotonic() > deadline_s:
            raise TooSlow("The list was given up: too many images had to be looked at for these filters.")
    return found[: listing.limit]


def _slice(conn: Connection, ctx: Context, listing: Listing, marker: Image | None, size: int) -> list[Any]:
    """The next rows in order out of all that the caller sees: one walk for each scope, merged. Never an OR, so each walk has its index."""
    rows: dict[int, Any] = {}
    for scope in _scopes(ctx, listing):
        query = sa.select(*COLUMNS, t.c.doc).where(t.c.os_hidden == listing.os_hidden, *scope)
        query = query.where(*(t.c[name] == value for name, value in listing.equal.items()))
        if marker:
            query = query.where(_after(listing.sorts, marker))
        for name, ascending in listing.sorts:
            column = t.c[name]
            if column.nullable:
                query = query.order_by(sa.desc(column.is_(None)) if ascending else sa.asc(column.is_(None)))
            query = query.order_by(column if ascending else column.desc())
        rows |= {row[0]: row for row in conn.execute(query.limit(size))}
    ordered = list(rows.values())
    for name, ascending in reversed(listing.sorts):
        ordered.sort(key=_nulls_first(NAMES.index(name)), reverse=not ascending)
    return ordered[:size]


def _nulls_first(at: int) -> Callable[[Any], Any]:
    return lambda row: (row[at] is not None, row[at] if row[at] is not None else 0)


def _scopes(ctx: Context, listing: Listing) -> list[list[sa.ColumnElement[bool]]]:
    """One condition list for each set of images that the caller's list is made of."""
    own = [t.c.owner == ctx.project]
    wanted = listing.visibility
    if ctx.admin:
        if wanted == "all":
            return [[]]
        if wanted:
            return [[t.c.visibility == wanted]]
        return [[t.c.visibility != "community"], [*own, t.c.visibility == "community"]]
    if wanted in ("public", "community"):
        return [[t.c.visibility == wanted]]
    if wanted in ("private", "shared"):
        return [[*own, t.c.visibility == wanted]]
    scopes = [own, [t.c.visibility == "public"]]
    return [*scopes, [t.c.visibility == "community"]] if wanted == "all" else scopes


def _after(sorts: Sequence[tuple[str, bool]], marker: Image) -> sa.ColumnElement[bool]:
    """Rows behind the marker. NULL comes before every value in ascending order, on every database."""
    if sorts[0][0] == "k":
        return t.c.k > marker.k if sorts[0][1] else t.c.k < marker.k
    steps: list[sa.ColumnElement[bool]] = []
    equal: list[sa.ColumnElement[bool]] = []
    for name, ascending in sorts:
        column, value = t.c[name], getattr(marker, name)
        behind: sa.ColumnElement[bool]
        if value is None:
            behind = column.is_not(None) if ascending else sa.false()
        elif ascending:
            behind = column > value
        else:
            behind = sa.or_(column < value, column.is_(None)) if column.nullable else column < value
        steps.append(sa.and_(*equal, behind))
        equal.append(column.is_(None) if value is None else column == value)
    return sa.or_(*steps)


def no_marker(image_id: str) -> BadValue:
    """The same answer for a marker that is unknown and for one that the caller may not see."""
    return BadValue(f"No image found with ID {image_id}")
