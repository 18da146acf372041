"""The index behind lists: for each image, rows that say who sees it and what is true of it, kept in the transaction that changes the image.

A row's `t` is a keyed 64-bit hash of (scope, hidden, term), so that values of any length fit and no collation plays a part. Two terms may
share a hash: whoever reads rows tests the images that they lead to. Scopes and terms are spelled in model/terms.py.
"""

import functools
import hashlib
import secrets
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import missing, tables
from ikon.model.image import Image
from ikon.model.terms import SORTED, scopes, sorting, spelled, value

Sort = tuple[int, bytes]

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


def rows(secret: bytes, image: Image) -> tuple[set[int], set[Sort]]:
    """The `t` of every row in `terms`, and (`t`, `v`) of every row in `sorts`, that an image has."""
    whole, shares = scopes(image)
    hidden, true, values = image.os_hidden, list(spelled(image)), [(field, value(image, field)) for field in SORTED]
    found = {hashed(secret, scope, hidden, term) for scope in whole for term in true}
    found.update(hashed(secret, scope, hidden, "") for scope in shares)
    return found, {(hashed(secret, scope, hidden, sorting(field)), v) for scope in (*whole, *shares) for field, v in values}


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
        _run(conn, _insert_text(conn.dialect.name, table, len(part), len(part[0])), [item for row in part for item in row])


def count(conn: Connection, scope: str, names: Iterable[str]) -> int:
    """How many rows a scope has of some terms, hidden images' too. It reads them all."""
    found = [hashed(key(conn), scope, hidden, name) for name in names for hidden in (False, True)]
    return int(conn.execute(sa.select(sa.func.count()).where(tables.terms.c.t.in_(found))).scalar_one())


def mark(conn: Connection) -> str:
    """The driver's placeholder for a parameter."""
    return "?" if conn.dialect.name == "sqlite" else "%s"


def _run(conn: Connection, statement: str, params: Iterable[Any]) -> None:
    conn.exec_driver_sql(statement, tuple(params))


@functools.lru_cache(256)
def _insert_text(dialect: str, table: str, count: int, width: int) -> str:
    """A row that is there already stays: an index that is out of step costs a look, and must not keep an image from changing."""
    row = f"({', '.join(['?' if dialect == 'sqlite' else '%s'] * width)})"
    ignore = {"sqlite": " OR IGNORE", "postgresql": ""}.get(dialect, " IGNORE")
    return f"INSERT{ignore} INTO {table} VALUES {', '.join([row] * count)}{' ON CONFLICT DO NOTHING' if dialect == 'postgresql' else ''}"


def _delete_terms(conn: Connection, k: int, gone: list[int]) -> None:
    if gone:
        places = ", ".join([mark(conn)] * len(gone))
        _run(conn, f"DELETE FROM terms WHERE k = {mark(conn)} AND t IN ({places})", (k, *gone))


def _delete_sorts(conn: Connection, k: int, gone: list[Sort]) -> None:
    """Each row by its whole key, which every database finds through the primary key; SQLite takes expressions of depth 1,000 at most."""
    one = f"(t = {mark(conn)} AND v = {mark(conn)} AND k = {mark(conn)})"
    for at in range(0, len(gone), 500):
        part = gone[at : at + 500]
        _run(conn, f"DELETE FROM sorts WHERE {' OR '.join([one] * len(part))}", [item for t, v in part for item in (t, v, k)])
