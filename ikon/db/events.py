"""Events: what happened to an image, written in the transaction that did it. They are the image's timeline."""

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from ikon.context import Context
from ikon.db import tables
from ikon.db.engine import now_ms_sql
from ikon.model.image import Image

t = tables.events
INSERT = sa.insert(t).values({c: bindparam(c.name) for c in t.c if c.name not in ("n", "at")} | {"at": now_ms_sql()})


def add(conn: Connection, ctx: Context, kind: str, image: Image, detail: str | None = None) -> None:
    """Record that `kind` ("image.create", ...) happened to the image, whose version is the one it led to."""
    conn.execute(
        INSERT,
        {
            "image_id": image.id,
            "version": image.version,
            "kind": kind,
            "project": ctx.project,
            "user": ctx.user,
            "request": ctx.request_id,
            "detail": detail,
        },
    )
