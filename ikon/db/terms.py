"""The index behind lists: for each image, rows that say who sees it and what is true of it, kept in the transaction that changes the image.

A row's `t` is a keyed 64-bit hash of (scope, hidden, term), so that values of any length fit and no collation plays a part. Two terms may
share a hash: whoever reads rows tests the images that they lead to. Scopes, each without the hidden or with only the hidden images:

    a          every image that is not community          m:PROJECT             images shared with a project that has accepted
    c          every community image                      m:PROJECT:pending     ... that has not decided
    o:PROJECT  every image of a project                   m:PROJECT:rejected    ... that has refused
    p          every public image

A share's scope has the plain term alone (its images are all in `a`, where the other terms are found); all have the rows for sorting.
"""

import functools
import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import missing, tables
from ikon.model.image import Image

Sort = tuple[int, bytes]

#: Fields that lists can be sorted by with rows of their own.
SORTED = ("name", "size", "updated")
#: The algorithm that nearly every image has: no term says so.
USUAL_HASH = "sha512"
KEY = sa.select(tables.secrets.c.value).where(tables.secrets.c.name == "terms")


def key(conn: Connection) -> bytes:
    """The secret of this database's hashes, so that nobody outside can make terms meet. Made with the tables."""
    found: bytes | None = conn.info.get("terms")
    if found is None:
        found = conn.info["terms"] = bytes(conn.execute(KEY).scalar_one())
    return found


def make_key(conn: Connection) -> None:
    """Choose the secret, once in a database's life: another one would need every row anew."""
    missing.insert(conn, tables.secrets, name="terms", value=secrets.token_bytes(32))


def hashed(secret: bytes, scope: str, hidden: bool, term: str) -> int:
    """The `t` of one term."""
    text = f"{scope}\0{hidden:d}\0{term}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=secret).digest(), "big", signed=True)


def value(image: Image, field: str) -> bytes:
    """What an image is sorted by: null before every value, text by byte, numbers by size."""
    return encoded(getattr(image, field))


def encoded(found: str | int | None) -> bytes:
    """A value as `v` holds it."""
    if found is None:
        return b"\0"
    return b"\1" + (found.encode() if isinstance(found, str) else found.to_bytes(8, "big"))


def terms(image: Image) -> Iterator[str]:
    """All that lists may filter by and that is true of an image. The plain term, first, is true of every image."""
    yield ""
    yield text("n", image.name)
    yield text("s", image.status)
    yield text("d", image.disk_format)
    yield text("f", image.container_format)
    yield text("v", image.visibility)
    if image.protected:
        yield "x"
    if image.min_disk:
        yield f"g:{image.min_disk}"
    if image.min_ram:
        yield f"r:{image.min_ram}"
    if image.virtual_size is not None:
        yield f"z:{image.virtual_size}"
    if image.os_hash_algo not in (None, USUAL_HASH):
        yield text("h", image.os_hash_algo)
    for name, content in image.properties.items():
        yield f"p:{name}\0{content}"
    for tag in image.tags:
        yield f"t:{tag}"


def text(kind: str, content: str | None) -> str:
    """The term that says that a field has this text, or none."""
    return kind if content is None else f"{kind}:{content}"


def scopes(image: Image) -> tuple[list[str], list[str]]:
    """The scopes in which all terms of an image are found, and those of its shares."""
    whole = ["c" if image.visibility == "community" else "a"]
    if image.owner is not None:
        whole.append(f"o:{image.owner}")
    if image.visibility == "public":
        whole.append("p")
    shares = [share(project, member.status) for project, member in image.members.items()] if image.visibility == "shared" else []
    return whole, shares


def share(project: str, status: str) -> str:
    """The scope of the images shared with a project that it has answered in one way."""
    return f"m:{project}" if status == "accepted" else f"m:{project}:{status}"


def rows(secret: bytes, image: Image) -> tuple[set[int], set[Sort]]:
    """The `t` of every row in `terms`, and (`t`, `v`) of every row in `sorts`, that an image has."""
    whole, shares = scopes(image)
    hidden, true, values = image.os_hidden, list(terms(image)), [(field, value(image, field)) for field in SORTED]
    found = {hashed(secret, scope, hidden, term) for scope in whole for term in true}
    found.update(hashed(secret, scope, hidden, "") for scope in shares)
    return found, {(hashed(secret, scope, hidden, f"sort:{field}"), v) for scope in (*whole, *shares) for field, v in values}


def change(conn: Connection, before: Image | None, after: Image | None) -> None:
    """Make the rows of one image those of its new state; None: there is no such image. `before` was read under the image's lock."""
    secret = key(conn)
    image = before or after
    assert image is not None
    old_terms, old_sorts = rows(secret, before) if before else (set(), set())
    new_terms, new_sorts = rows(secret, after) if after else (set(), set())
    _delete_terms(conn, image.k, sorted(old_terms - new_terms))
    _delete_sorts(conn, image.k, sorted(old_sorts - new_sorts))
    insert(conn, "terms", [(t, image.k) for t in sorted(new_terms - old_terms)])
    insert(conn, "sorts", [(t, v, image.k) for t, v in sorted(new_sorts - old_sorts)])


def insert(conn: Connection, table: str, found: list[tuple[Any, ...]]) -> None:
    """Add rows of one table in as few statements as parameters allow."""
    for at in range(0, len(found), 5000):
        part = found[at : at + 5000]
        _run(conn, _insert_text(table, len(part), len(part[0]), mark(conn)), [item for row in part for item in row])


def mark(conn: Connection) -> str:
    """The driver's placeholder for a parameter."""
    return "?" if conn.dialect.name == "sqlite" else "%s"


def _run(conn: Connection, statement: str, params: Iterable[Any]) -> None:
    conn.exec_driver_sql(statement, tuple(params))


@functools.lru_cache(256)
def _insert_text(table: str, count: int, width: int, place: str) -> str:
    row = f"({', '.join([place] * width)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * count)}"  # noqa: S608  names and placeholders only


def _delete_terms(conn: Connection, k: int, gone: list[int]) -> None:
    if gone:
        places = ", ".join([mark(conn)] * len(gone))
        _run(conn, f"DELETE FROM terms WHERE k = {mark(conn)} AND t IN ({places})", (k, *gone))  # noqa: S608  placeholders only


def _delete_sorts(conn: Connection, k: int, gone: list[Sort]) -> None:
    """Each row by its whole key, which every database finds through the primary key; SQLite takes expressions of depth 1,000 at most."""
    one = f"(t = {mark(conn)} AND v = {mark(conn)} AND k = {mark(conn)})"
    for at in range(0, len(gone), 500):
        part = gone[at : at + 500]
        _run(conn, f"DELETE FROM sorts WHERE {' OR '.join([one] * len(part))}", [item for t, v in part for item in (t, v, k)])  # noqa: S608
