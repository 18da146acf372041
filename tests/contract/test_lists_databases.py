"""Lists walked by the index are those of the plain rule, on every database: any caller, filter, order and page."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.context import Context
from ikon.db import images, index, lists, schema, tables, terms
from ikon.db.engine import make_engine
from ikon.model.image import Image, Member, visible
from ikon.model.listing import Listing, includes, parse
from ikon.problems import BadValue

PROJECTS = ["alpha", "beta", "gamma", "Alpha", "delta:pending"]
NAMES = [None, "", "a", "A", "ä", "a ", "ubuntu:22.04", "ubuntu", "😀", "\U0010ffff", "￿", 'x,"y', "%_"]
SIZES = [None, 0, 1, 5, 5, 2**40, 2**62]
CALLERS = [
    *(Context("u", project, None, frozenset(("member", "reader"))) for project in (*PROJECTS, "nobody", None)),
    *(Context("u", project, None, frozenset(("admin", "member", "reader"))) for project in ("alpha", "nobody", None)),
]
QUERIES: list[Callable[[random.Random], tuple[str, str]]] = [
    lambda r: ("name", str(r.choice(NAMES))),
    lambda r: ("name", f'in:{r.choice(["a", "A", "none"])},"x,""y",ubuntu'),
    lambda r: ("status", r.choice(["queued", "active", "in:active,queued", "nonsense"])),
    lambda r: ("disk_format", r.choice(["raw", "qcow2", "in:raw,iso"])),
    lambda r: ("container_format", "bare"),
    lambda r: ("visibility", r.choice(["public", "private", "shared", "community", "all", ""])),
    lambda r: ("member_status", r.choice(["accepted", "pending", "rejected", "all"])),
    lambda r: ("owner", r.choice([*PROJECTS, "in:alpha,beta"])),
    lambda r: ("protected", r.choice(["true", "false"])),
    lambda r: ("size", r.choice(["5", "0", "in:1,5", "gt:1", "lte:5", "abc"])),
    lambda r: (r.choice(["size_min", "size_max", "virtual_size_min"]), r.choice(["0", "5", "6"])),
    lambda r: (r.choice(["min_disk", "min_ram"]), r.choice(["0", "1", "in:0,1", "in:1,2"])),
    lambda r: ("virtual_size", r.choice(["7", "in:7,8"])),
    lambda r: ("os_hash_algo", r.choice(["sha512", "md5"])),
    lambda r: ("checksum", r.choice(["c1", "c2"])),
    lambda r: ("colour", r.choice(["red", "blue", "in:red,blue", "Red", ""])),
    lambda r: ("größe", "weiß"),
    lambda r: ("tag", r.choice(["x", "y", "Y", "😀"])),
    lambda r: ("tag", r.choice(["x", "z"])),
    lambda r: ("created_at", f"{r.choice(['gt', 'gte', 'lt', 'lte', 'eq', 'neq'])}:1970-01-01T00:0{r.randrange(6)}:20"),
    lambda r: ("updated_at", f"{r.choice(['gt', 'lt', 'eq'])}:1970-01-01T00:02:{r.randrange(60):02}"),
    lambda r: ("os_hidden", "true"),
]
KEYS = ["name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"]


def some(r: random.Random, n: int) -> Image:
    """An image in which much is as in others."""
    active = r.random() < 0.7
    size = r.choice(SIZES) if active else None
    us = 1_000_000 * (n // 3) + n  # several in each second
    members = {p: Member(r.choice(["accepted", "pending", "rejected"]), us, us) for p in PROJECTS if r.random() < 0.3}
    return Image(
        k=us,
        id=f"{r.getrandbits(32):08x}-0000-4000-8000-{n:012x}",
        owner=r.choice([*PROJECTS, "alpha", "alpha", None]),
        visibility=r.choice(["public", "private", "shared", "shared", "community"]),
        os_hidden=r.random() < 0.15,
        status="active" if active else "queued",
        name=r.choice(NAMES) if r.random() < 0.7 else f"n{r.randrange(30)}",
        disk_format=r.choice([None, "raw", "qcow2", "iso"]),
        container_format=r.choice([None, "bare", "ova"]),
        size=size,
        virtual_size=r.choice([None, 7, 8]),
        min_disk=r.choice([0, 0, 1, 2]),
        min_ram=r.choice([0, 1]),
        protected=r.random() < 0.3,
        checksum=r.choice(["c1", "c2", None]),
        os_hash_algo=r.choice(["sha512", "sha512", "md5", None]),
        os_hash_value=None,
        updated=us + 1_000_000 * r.randrange(20),
        version=1,
        reason=None,
        digests=None,
        properties={"colour": r.choice(["red", "blue", "Red"])} | ({"größe": "weiß"} if r.random() < 0.2 else {}),
        tags=[tag for tag in ("x", "y", "Y", "😀") if r.random() < 0.4],
        stores=[],
        members=members,
    )


def plain(everything: list[Image], ctx: Context, listing: Listing) -> list[str]:
    """The page by the book: take all, test all, sort all."""
    chosen = [i for i in everything if includes(ctx, listing, i) and all(each.test(i) for each in listing.filters)]
    marker = next((i for i in everything if i.id == listing.marker), None)
    for field, ascending in reversed(listing.sorts):
        chosen.sort(key=lambda i: key(i, field), reverse=not ascending)
    if marker:
        together = [*[i for i in chosen if i.id != marker.id], marker]
        for field, ascending in reversed(listing.sorts):
            together.sort(key=lambda i: key(i, field), reverse=not ascending)
        at = next(n for n, i in enumerate(together) if i.id == marker.id)
        chosen = together[at + 1 :]
    return [i.id for i in chosen[: listing.limit]]


def key(image: Image, field: str) -> tuple[bool, Any]:
    found = getattr(image, field)
    if found is None:
        return (False, 0)
    return (True, found.encode() if isinstance(found, str) else found)


def walked(conn: Connection, ctx: Context, listing: Listing) -> list[str]:
    walk = lists.Walk(ctx, listing)
    while not walk.resume(conn):
        pass
    return [image.id for image in walk.found]


def asked(r: random.Random) -> list[tuple[str, str]]:
    params = [query(r) for query in r.sample(QUERIES, r.choice([0, 1, 1, 2, 2, 3, 4]))]
    for _ in range(r.choice([0, 0, 1, 1, 2, 3])):
        params.append(("sort_key", r.choice(KEYS)))
    if keys := [name for name, _ in params if name == "sort_key"]:
        params += [("sort_dir", r.choice(["asc", "desc"])) for _ in range(r.choice([0, 1, len(keys)]))]
        if len(keys) != len([1 for name, _ in params if name == "sort_dir"]) > 1:
            params = [param for param in params if param[0] != "sort_dir"]
    return params


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    engine = make_engine(database_url)
    schema.upgrade(engine)
    with engine.connect() as made:
        yield made


def fill(conn: Connection, r: random.Random, count: int) -> list[Image]:
    everything = [some(r, n + 1) for n in range(count)]
    for image in everything:
        images.insert(conn, image)
    return everything


@pytest.mark.parametrize("small", [lists.SMALL, 3], ids=["as it is", "as if there were many"])
def test_every_page_is_that_of_the_plain_rule(conn: Connection, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds of a few rows the ways for large sets are taken, cuts inside groups and slices included."""
    r = random.Random(7)
    if small == 3:
        for name, few in {"SMALL": 3, "COUNTED": 3, "SLICE": 2, "LONGEST_SLICE": 5, "FEWEST": 1, "FETCHED": 7}.items():
            monkeypatch.setattr(lists, name, few)
    everything = fill(conn, r, 150)
    compared = 0
    for _ in range(600 if conn.dialect.name == "sqlite" else 150):
        params, ctx, limit = asked(r), r.choice(CALLERS), r.choice([1, 2, 3, 10, 1000])
        listing = parse([*params, ("limit", str(limit))], 25, 1000)
        seen = [i for i in everything if visible(ctx, i)]
        marker = r.choice(seen).id if seen and r.random() < 0.5 else None
        for _ in range(4):
            listing = msgspec.structs.replace(listing, marker=marker)
            page = walked(conn, ctx, listing)
            assert page == plain(everything, ctx, listing), (params, ctx, limit, marker)
            compared += 1
            if len(page) < limit:
                break
            marker = page[-1]
    assert compared > 150


def test_rows_of_the_index_follow_every_change(conn: Connection) -> None:
    r = random.Random(3)
    everything = fill(conn, r, 60)
    for _ in range(150):
        n = r.randrange(len(everything))
        before = images.lock(conn, everything[n].id)
        assert before is not None
        if r.random() < 0.1:
            images.delete(conn, before)
            del everything[n]
        else:
            fresh = some(r, n + 1)
            after = msgspec.structs.replace(fresh, k=before.k, id=before.id, version=before.version)
            everything[n] = images.save(conn, before, after)

    assert index.compare(conn) == (len(everything), 0, 0)
    for ctx in CALLERS:
        listing = parse([("visibility", "all"), ("member_status", "all"), ("limit", "1000")], 25, 1000)
        assert walked(conn, ctx, listing) == plain(everything, ctx, listing)


def test_missing_and_surplus_rows_are_told_and_made_right(conn: Connection) -> None:
    fill(conn, random.Random(1), 30)
    t, k = conn.execute(sa.select(tables.terms).limit(1)).one()
    conn.execute(sa.delete(tables.terms).where(tables.terms.c.t == t, tables.terms.c.k == k))
    terms.insert(conn, "sorts", [(1, b"\1x", 5), (2, b"\0", 77)])
    assert index.compare(conn) == (30, 1, 2)

    assert index.rebuild(conn) == 30

    assert index.compare(conn) == (30, 0, 0)


def test_a_marker_that_the_caller_does_not_see_is_refused_like_one_that_is_not_there(conn: Connection) -> None:
    hidden = msgspec.structs.replace(some(random.Random(1), 1), owner="beta", visibility="private")
    images.insert(conn, hidden)
    said = []
    for marker in (hidden.id, hidden.id[:-1] + "f"):
        listing = parse([("marker", marker)], 25, 1000)
        with pytest.raises(BadValue) as refused:
            walked(conn, CALLERS[0], listing)
        said.append(str(refused.value).replace(marker, "ID"))
    assert said[0] == said[1]


PLANNED: list[list[tuple[str, str]]] = [
    [],
    [("colour", "red")],
    [("colour", "red"), ("tag", "x")],
    [("sort_key", "name")],
    [("sort_key", "size"), ("colour", "red")],
    [("sort_key", "status")],
]


def test_no_statement_reads_the_index_from_end_to_end(conn: Connection) -> None:
    """The plans of pages in the middle, with enough images that a planner would be tempted."""
    everything = fill(conn, random.Random(2), 1500)
    conn.commit()
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("ANALYZE")
    ran: list[tuple[str, Any]] = []
    sa.event.listen(conn, "before_cursor_execute", lambda c, cursor, statement, params, context, many: ran.append((statement, params)))
    marker = next(i.id for i in reversed(everything) if i.owner == "alpha" and not i.os_hidden)
    for query in PLANNED:
        assert walked(conn, CALLERS[0], parse([*query, ("marker", marker)], 25, 1000))

    explain = "EXPLAIN QUERY PLAN " if conn.dialect.name == "sqlite" else "EXPLAIN "
    for statement, params in [(statement, params) for statement, params in ran if "terms" in statement or "sorts" in statement]:
        plan = [" ".join(map(str, row)) for row in conn.exec_driver_sql(explain + statement, params)]
        assert not [line for line in plan if reads_all(conn.dialect.name, line)], (statement, plan)


def reads_all(dialect: str, line: str) -> bool:
    """Whether a line of a plan reads a table of the index from end to end."""
    if dialect == "sqlite":
        return any(f"SCAN {table}" in line for table in ("images", "terms", "sorts"))
    if dialect == "postgresql":
        return "Seq Scan on" in line
    return " ALL " in line and any(f" {table} " in line for table in ("terms", "sorts"))
