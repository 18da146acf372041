"""The index of lists as a whole: made, made anew, and compared with the images that it is made of."""

from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import images, tables, terms
from ikon.model.image import Image

#: Images looked at together.
BATCH = 500


class Differences(NamedTuple):
    """Rows that images should have and do not, and rows that no image has any use for."""

    images: int
    missing: int
    surplus: int


def ensure(conn: Connection) -> None:
    """Make the index of a database that has none so far."""
    if conn.execute(terms.KEY).first() is None:
        terms.make_key(conn)
        rebuild(conn)


def rebuild(conn: Connection) -> int:
    """Make every row anew; returns the number of images."""
    conn.execute(sa.delete(tables.terms))
    conn.execute(sa.delete(tables.sorts))
    secret, count = terms.key(conn), 0
    for batch in _batches(conn):
        found = [(image.k, *terms.rows(secret, image)) for image in batch]
        terms.insert(conn, "terms", sorted((t, k) for k, plain, _ in found for t in plain))
        terms.insert(conn, "sorts", sorted((t, v, k) for k, _, ordered in found for t, v in ordered))
        count += len(batch)
    return count


def compare(conn: Connection) -> Differences:
    """Look whether each image has its rows, and whether there are more rows than images need. Reads every image."""
    secret, seen, missing, needed = terms.key(conn), 0, 0, 0
    for batch in _batches(conn):
        for image in batch:
            plain, ordered = terms.rows(secret, image)
            needed += len(plain) + len(ordered)
            missing += len(plain - _terms_of(conn, image.k, plain)) + len(ordered - _sorts_of(conn, image.k, ordered))
        seen += len(batch)
    there = sum(conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in (tables.terms, tables.sorts))
    return Differences(seen, missing, there - (needed - missing))


def _terms_of(conn: Connection, k: int, expected: set[int]) -> set[int]:
    t = tables.terms.c
    return set(conn.execute(sa.select(t.t).where(t.k == k, t.t.in_(expected))).scalars())


def _sorts_of(conn: Connection, k: int, expected: set[terms.Sort]) -> set[terms.Sort]:
    s = tables.sorts.c
    found = conn.execute(sa.select(s.t, s.v).where(s.k == k, s.t.in_({t for t, _ in expected}), s.v.in_({v for _, v in expected})))
    return {(t, bytes(v)) for t, v in found} & expected


def _batches(conn: Connection) -> Iterator[list[Image]]:
    """All images in order of k, some at a time."""
    after = -1
    while batch := images.after(conn, after, BATCH):
        yield batch
        after = batch[-1].k
