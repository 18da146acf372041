#!/usr/bin/env python3
"""Put the first N images of the catalogue straight into a database: load.py ikon|glance URL N

`ikon` makes the schema of an empty database, and each image with its id and its rows in the index of lists, the very ones that the
server would have written, in order of their keys. `glance` wants upstream's schema on MariaDB. Records alone: no image has bytes.
Runs on Ikon's own Python. Rows to be sorted wait in TMPDIR, about 0.7 GB of them for a million images.
"""

import gc
import pickle
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from catalogue import Entry, entry
from sqlalchemy import Connection

from ikon.db import images, schema, terms
from ikon.db.connect import make_engine, raw
from ikon.model.image import Image, Member

Row = tuple[Any, ...]
BATCH = 5000
#: How many parts rows are sorted in, one after the other.
PARTS = 64


class Sorter:
    """More rows than memory should hold, given back in order: they wait in a file for each range of their first column, 64 bits, signed."""

    def __init__(self) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(PARTS)]

    def add(self, rows: Iterable[Row]) -> None:
        parts: list[list[Row]] = [[] for _ in range(PARTS)]
        for row in rows:
            parts[(row[0] + 2**63) * PARTS >> 64].append(row)
        for part, file in zip(parts, self._files, strict=True):
            pickle.dump(part, file, protocol=5)

    def sorted(self) -> Iterator[list[Row]]:
        for file in self._files:
            file.seek(0)
            rows: list[Row] = []
            try:
                while True:
                    rows += pickle.load(file)
            except EOFError:
                yield sorted(rows)
            file.close()


# ---- the fastest way into each database


class Sqlite:
    def __init__(self, conn: Connection) -> None:
        self.driver = raw(conn)
        self.driver.execute("COMMIT")
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000"):
            self.driver.execute(f"PRAGMA {pragma}").fetchall()

    def add(self, table: str, rows: list[Row], columns: str = "") -> None:
        if rows:
            self.driver.execute("BEGIN")
            self.driver.executemany(f"INSERT INTO {table} {columns} VALUES ({', '.join('?' * len(rows[0]))})", rows)
            self.driver.execute("COMMIT")

    def settle(self) -> None:
        """Leave the database as it is after a long time of service."""


class MariaDB:
    def __init__(self, conn: Connection) -> None:
        self.driver = raw(conn)
        with self.driver.cursor() as cursor:
            cursor.execute("SET SESSION unique_checks=0, SESSION foreign_key_checks=0")

    def add(self, table: str, rows: list[Row], columns: str = "") -> None:
        into = columns or {"sorts": "(t, @v, k) SET v = UNHEX(@v)"}.get(table, "")
        with tempfile.NamedTemporaryFile("w", newline="") as file, self.driver.cursor() as cursor:
            file.writelines(lines(rows, ""))
            file.flush()
            cursor.execute(f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE {table} CHARACTER SET utf8mb4 {into}")
            if cursor.rowcount != len(rows):
                raise RuntimeError(f"{table}: {cursor.rowcount} of {len(rows)} rows were taken")
        self.driver.commit()

    def settle(self) -> None:
        with self.driver.cursor() as cursor:
            cursor.execute("ANALYZE TABLE images, ids, terms, sorts")


class PostgreSQL:
    def __init__(self, conn: Connection) -> None:
        self.driver = raw(conn)
        self.driver.execute("SET synchronous_commit = off")

    def add(self, table: str, rows: list[Row], columns: str = "") -> None:
        with self.driver.cursor() as cursor, cursor.copy(f"COPY {table} {columns} FROM STDIN") as copy:
            copy.write("".join(lines(rows, "\\\\x")))
        self.driver.commit()

    def settle(self) -> None:
        """As autovacuum would: index-only scans need it."""
        self.driver.autocommit = True
        self.driver.execute("VACUUM ANALYZE")


def lines(rows: list[Row], bytes_prefix: str) -> Iterator[str]:
    """Rows as COPY and LOAD DATA read them; bytes in hexadecimal."""
    for row in rows:
        yield "\t".join(_field(item, bytes_prefix) for item in row) + "\n"


def _field(item: Any, bytes_prefix: str) -> str:
    if item is None:
        return "\\N"
    if isinstance(item, str):
        return item.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
    if isinstance(item, bytes):
        return bytes_prefix + item.hex()
    return str(int(item))


def loader(conn: Connection) -> Sqlite | MariaDB | PostgreSQL:
    kinds = {"sqlite": Sqlite, "mysql": MariaDB, "mariadb": MariaDB, "postgresql": PostgreSQL}
    return kinds[conn.dialect.name](conn)


# ---- Ikon


def image(one: Entry) -> Image:
    """An entry as Ikon holds it."""
    whole = one.size is not None
    return Image(
        k=one.created * 1_000_000,
        id=one.id,
        owner=one.owner,
        visibility=one.visibility,
        os_hidden=one.os_hidden,
        status=one.status,
        name=one.name,
        disk_format=one.disk_format,
        container_format="bare",
        size=one.size,
        virtual_size=None,
        min_disk=one.min_disk,
        min_ram=0,
        protected=False,
        checksum=one.checksum if whole else None,
        os_hash_algo="sha512" if whole else None,
        os_hash_value=one.os_hash_value if whole else None,
        updated=one.updated * 1_000_000,
        version=1,
        reason=None,
        digests=None,
        properties=one.properties,
        tags=one.tags,
        stores=["fast"] if whole else [],
        members={project: Member(status, one.created * 1_000_000, one.created * 1_000_000) for project, status in one.members.items()},
    )


def into_ikon(url: str, count: int) -> None:
    """Fill an empty database."""
    engine = make_engine(url + "?local_infile=1" if url.startswith("mysql") else url)
    schema.upgrade(engine)
    with engine.connect() as conn:
        secret, into, began = terms.key(conn), loader(conn), time.monotonic()
        plain, ordered, ids = Sorter(), Sorter(), []
        for at in range(0, count, BATCH):
            batch = [image(entry(i)) for i in range(at, min(at + BATCH, count))]
            found = [(one.k, *terms.rows(secret, one)) for one in batch]
            plain.add((t, k) for k, ts, _ in found for t in ts)
            ordered.add((t, v, k) for k, _, pairs in found for t, v in pairs)
            into.add("images", [_image_row(one) for one in batch])
            ids += [(one.id,) for one in batch]
        say(began, f"{count} images")
        into.add("ids", sorted(ids))
        for table, sorter in (("terms", plain), ("sorts", ordered)):
            rows = 0
            for part in sorter.sorted():
                into.add(table, part)
                rows += len(part)
            say(began, f"{rows} {table}")
        into.settle()
        say(began, "settled")


def _image_row(one: Image) -> Row:
    doc = images.ENCODER.encode(images.Doc(one.properties, one.tags, one.stores, one.members)).decode()
    return (*(getattr(one, name) for name in images.NAMES), doc)


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)


# ---- upstream

LIFE = "created_at, updated_at, deleted"
COLUMNS = {
    "images": "id, name, owner, visibility, os_hidden, status, disk_format, container_format, size, min_disk, min_ram, protected, "
    f"checksum, os_hash_algo, os_hash_value, {LIFE}",
    "image_properties": f"image_id, name, value, {LIFE}",
    "image_tags": f"image_id, value, {LIFE}",
    "image_members": f"image_id, member, status, can_share, {LIFE}",
    "image_locations": f"image_id, value, meta_data, status, {LIFE}",
}


def into_glance(url: str, count: int) -> None:
    """Fill upstream's empty tables with the same images."""
    with sa.create_engine(url + "?local_infile=1").connect() as conn:
        into, began = loader(conn), time.monotonic()
        for at in range(0, count, BATCH):
            found: dict[str, list[Row]] = {table: [] for table in COLUMNS}
            for i in range(at, min(at + BATCH, count)):
                for table, rows in glance_rows(entry(i)).items():
                    found[table] += rows
            for table, rows in found.items():
                into.add(table, rows, f"({COLUMNS[table]})")
        conn.exec_driver_sql(f"ANALYZE TABLE {', '.join(COLUMNS)}")
        say(began, f"{count} images")


def glance_rows(one: Entry) -> dict[str, list[Row]]:
    """An entry as upstream holds it, by table."""
    known, whole = image(one), one.size is not None
    life = (_time(one.created), _time(one.updated), False)
    row = (
        one.id,
        one.name,
        one.owner,
        one.visibility,
        one.os_hidden,
        one.status,
        one.disk_format,
        "bare",
        one.size,
        one.min_disk,
        0,
        False,
    )
    return {
        "images": [(*row, known.checksum, known.os_hash_algo, known.os_hash_value, *life)],
        "image_properties": [(one.id, name, value, *life) for name, value in one.properties.items()],
        "image_tags": [(one.id, tag, *life) for tag in one.tags],
        "image_members": [(one.id, project, status, False, *life) for project, status in one.members.items()],
        "image_locations": [(one.id, f"file:///nonexistent/{one.id}", '{"store": "fast"}', "active", *life)] if whole else [],
    }


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def main() -> None:
    _, side, url, count = sys.argv
    gc.disable()  # millions of rows, and none in a cycle
    into_ikon(url, int(count)) if side == "ikon" else into_glance(url, int(count))


if __name__ == "__main__":
    main()
