"""The tables, as the newest migration leaves them (a test compares).

Times count from 1970: `k`, `updated`, and those of metadata definitions in microseconds, the rest in milliseconds.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

#: The revision of the newest file in migrations/versions.
SCHEMA = "0010"

metadata = sa.MetaData()


def text(length: int) -> sa.types.TypeEngine[str]:
    """Text that compares and sorts by byte on every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def long_text() -> sa.types.TypeEngine[str]:
    """Text of up to 16 MiB: 128 properties of 64 KiB fill half of it."""
    return sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def digest_row() -> sa.types.TypeEngine[bytes]:
    """1,024 digests of 32 bytes."""
    return sa.LargeBinary().with_variant(mysql.VARBINARY(32768), "mysql", "mariadb")


def sort_value() -> sa.types.TypeEngine[bytes]:
    """A byte that tells null from a value, and the value: 255 characters of four bytes at most."""
    return sa.LargeBinary().with_variant(mysql.VARBINARY(1024), "mysql", "mariadb")


def integer_key() -> sa.types.TypeEngine[int]:
    """A 64-bit primary key; on SQLite the row id itself."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


images = sa.Table(
    "images",
    metadata,
    sa.Column("k", integer_key(), primary_key=True, autoincrement=False),
    sa.Column("id", text(36), nullable=False),
    sa.Column("owner", text(255)),
    sa.Column("visibility", text(10), nullable=False),
    sa.Column("os_hidden", sa.Boolean, nullable=False),
    sa.Column("status", text(20), nullable=False),
    sa.Column("name", text(255)),
    sa.Column("disk_format", text(20)),
    sa.Column("container_format", text(20)),
    sa.Column("size", sa.BigInteger),
    sa.Column("virtual_size", sa.BigInteger),
    sa.Column("min_disk", sa.Integer, nullable=False),
    sa.Column("min_ram", sa.Integer, nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
    sa.Column("checksum", text(32)),
    sa.Column("os_hash_algo", text(20)),
    sa.Column("os_hash_value", text(128)),
    sa.Column("updated", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("reason", text(1000)),
    sa.Column("digests", text(36)),
    sa.Column("doc", long_text(), nullable=False),  # JSON: properties, tags, names of the stores with a ready copy, members
    sa.UniqueConstraint("id", name="images_id"),
    sa.Index("images_checksum", "checksum", "k"),
    sa.Index("images_hash", "os_hash_value", "k"),
)

#: The index of lists, made of the images by db/terms.py: `t` is a hash of who sees an image and of one thing that is true of it.
terms = sa.Table(
    "terms",
    metadata,
    sa.Column("t", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("k", sa.BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

#: The same for the orders that lists may have: `v` is the value that is sorted by.
sorts = sa.Table(
    "sorts",
    metadata,
    sa.Column("t", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("v", sort_value(), primary_key=True),
    sa.Column("k", sa.BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", text(40), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

#: Deleted images whose bytes are kept for a while. They have no row in `images`, so that nothing which looks there can find one.
trash = sa.Table(
    "trash",
    metadata,
    sa.Column("id", text(36), primary_key=True),
    sa.Column("deleted", sa.BigInteger, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),  # when it is purged
    sa.Column("digests", text(36)),  # as in `images`
    sa.Column("record", long_text(), nullable=False),  # JSON: the whole image as it was
    sa.Index("trash_due", "due", "id"),
)

ids = sa.Table("ids", metadata, sa.Column("id", text(36), primary_key=True))

copies = sa.Table(
    "copies",
    metadata,
    sa.Column("id", text(36), primary_key=True),
    sa.Column("image_id", text(36), nullable=False),
    sa.Column("store", text(64), nullable=False),
    sa.Column("node", text(255)),  # where the bytes are, if one node alone can reach them
    sa.Column("url", text(2000), nullable=False),
    sa.Column("state", text(10), nullable=False),
    sa.Column("instance", text(80)),  # the process at work on the bytes; none: whoever comes
    sa.Column("project", text(255)),  # who is charged
    sa.Column("reserved", sa.BigInteger, nullable=False),  # bytes charged
    sa.Column("size", sa.BigInteger),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("verified_at", sa.BigInteger),
    sa.Column("tries", sa.Integer, nullable=False),  # failed attempts to delete the bytes
    sa.Column("not_before", sa.BigInteger, nullable=False),
    sa.Column("metadata", long_text()),  # JSON: what was said of a place that a caller named
    sa.Index("copies_image", "image_id"),
    sa.Index("copies_state", "state", "not_before"),
    sa.Index("copies_project", "project"),
    sa.Index("copies_store", "store", "id"),
)

block_digests = sa.Table(
    "block_digests",
    metadata,
    sa.Column("image_id", text(36), primary_key=True),
    sa.Column("copy_id", text(36), primary_key=True),
    sa.Column("gib", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digests", digest_row(), nullable=False),  # BLAKE3 of each MiB of that GiB, one after the other
)

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("id", text(80), primary_key=True),
    sa.Column("node", text(255), nullable=False),
    sa.Column("lease_until", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", text(200), primary_key=True),
    sa.Column("instance", text(80), nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("n", integer_key(), primary_key=True),
    sa.Column("image_id", text(36), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", text(40), nullable=False),
    sa.Column("project", text(255)),
    sa.Column("user", text(255)),
    sa.Column("request", text(64)),
    sa.Column("detail", long_text()),
    sa.Index("events_image", "image_id", "n"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("n", integer_key(), primary_key=True),
    sa.Column("sink", text(20), nullable=False),
    sa.Column("image_id", text(36), nullable=False),  # or "metadef-" and the number of a namespace
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("kind", text(40), nullable=False),
    sa.Column("body", long_text(), nullable=False),  # JSON
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("not_before", sa.BigInteger, nullable=False),
    sa.Column("parked", sa.Boolean, nullable=False),  # tried no more until a server starts
    sa.Index("deliveries_image", "sink", "image_id", "n"),
    sa.Index("deliveries_due", "sink", "parked", "not_before", "n", "image_id"),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("project", text(255), primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # what it holds; -1: not known, to be counted
    sa.Column("staged_bytes", sa.BigInteger, nullable=False, server_default="-1"),  # as servers of before 0008 leave it
    sa.Column("images", sa.BigInteger, nullable=False, server_default="-1"),
    sa.Column("uploading", sa.BigInteger, nullable=False, server_default="-1"),
    sa.Column("most_bytes", sa.BigInteger),  # limits of its own; none: those of the settings, 0: it has no limit
    sa.Column("most_staged_bytes", sa.BigInteger),
    sa.Column("most_images", sa.BigInteger),
    sa.Column("most_uploading", sa.BigInteger),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", text(255), primary_key=True),
    sa.Column("project", text(255), nullable=False),
    sa.Column("roles", text(255), nullable=False),  # as given, parted by commas; what they imply is not stored
    sa.Column("password", text(255), nullable=False),  # its argon2 hash
    sa.Column("created", sa.BigInteger, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", text(36), primary_key=True),
    sa.Column("kind", text(32), nullable=False),
    sa.Column("image_id", text(36)),
    sa.Column("request_id", text(64)),
    sa.Column("user", text(255)),
    sa.Column("input", long_text(), nullable=False),  # JSON
    sa.Column("queue", text(80), nullable=False),  # which processes may run it
    sa.Column("project", text(255), nullable=False),  # whose limits it counts against; "": nobody's
    sa.Column("store", text(64), nullable=False),
    sa.Column("state", text(12), nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),  # the order inside a priority, fair between projects; no turn to convert
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("since", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("checkpoint", long_text()),  # JSON
    sa.Column("instance", text(80)),  # the process at work on it
    sa.Column("not_before", sa.BigInteger, nullable=False),
    sa.Column("deadline", sa.BigInteger),
    sa.Column("cancel", sa.Boolean, nullable=False),
    sa.Column("done_bytes", sa.BigInteger),
    sa.Column("total_bytes", sa.BigInteger),
    sa.Column("result", long_text()),
    sa.Column("reason", long_text()),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger),
    sa.Column("finished", sa.BigInteger),
    sa.Index("jobs_head", "state", "queue", "priority", "turn", "id", "project", "store"),
    sa.Index("jobs_project", "project", "state", "queue", "priority", "turn"),
    sa.Index("jobs_instance", "instance", "state"),
    sa.Index("jobs_image", "image_id", "created"),
    sa.Index("jobs_finished", "finished"),
)

#: Rows that two touch in turn where there is a limit, who claim jobs or promise room on a disk: not counters.
job_limits = sa.Table(
    "job_limits",
    metadata,
    sa.Column("name", text(300), primary_key=True),
    sa.Column("n", sa.BigInteger, nullable=False),
)

periodic_runs = sa.Table(
    "periodic_runs",
    metadata,
    sa.Column("name", text(300), primary_key=True),  # a process that runs by itself; with its node where each has one
    sa.Column("at", sa.BigInteger, nullable=False),  # when its last run ended
    sa.Column("took_ms", sa.BigInteger, nullable=False),
    sa.Column("parts", long_text(), nullable=False),  # JSON: what was looked at and mended, by kind
    sa.Column("failed", text(1000)),  # why it did not do all of it
)

#: Namespaces of metadata definitions.
metadef_namespaces = sa.Table(
    "metadef_namespaces",
    metadata,
    sa.Column("n", integer_key(), primary_key=True),  # in order of creation, and never given again
    sa.Column("namespace", text(80), nullable=False),
    sa.Column("display_name", text(80)),
    sa.Column("description", text(500)),
    sa.Column("visibility", text(10), nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
    sa.Column("owner", text(255)),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("namespace", name="metadef_namespaces_namespace"),
    sa.Index("metadef_namespaces_visibility", "visibility", "n"),
    sa.Index("metadef_namespaces_owner", "owner", "visibility", "n"),
    sqlite_autoincrement=True,
)

#: What is in them. A row changes, and comes and goes, under the lock of its namespace's row.
metadef_entries = sa.Table(
    "metadef_entries",
    metadata,
    sa.Column("namespace", sa.BigInteger, primary_key=True, autoincrement=False),  # its n
    sa.Column("kind", text(16), primary_key=True),  # object, property, tag, or resource_type: that it applies to one
    sa.Column("name", text(80), primary_key=True),
    sa.Column("doc", long_text(), nullable=False),  # JSON: what is said of it
    sa.Column("size", sa.Integer, nullable=False),  # bytes of name and doc
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
    sa.Index("metadef_entries_name", "kind", "name", "namespace"),
)

#: Every resource type that a namespace ever applied to.
metadef_resource_types = sa.Table(
    "metadef_resource_types",
    metadata,
    sa.Column("name", text(80), primary_key=True),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
)
