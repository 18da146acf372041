"""Rows of metadata definitions: namespaces, what is in them, and the resource types that were ever named.

Whoever changes a namespace or anything in it locks its row first, so that nothing is put into one that is being deleted.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, bindparam
from sqlalchemy.exc import IntegrityError

from ikon.context import Context
from ikon.db import missing, tables
from ikon.db.images import now_us
from ikon.model.lint import COMMON, IMAGES
from ikon.model.metadef import TYPES, About, Entry, Kind, Listing, Namespace, Tree, Value, check_distinct, check_room, exists, size
from ikon.problems import Conflict

t, e, types = tables.metadef_namespaces, tables.metadef_entries, tables.metadef_resource_types
DECODERS: dict[str, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(form) for kind, form in TYPES.items()}

#: Orders that are not called as their column is.
COLUMNS = {"created_at": "n", "id": "n", "updated_at": "updated"}
GET = sa.select(t).where(t.c.namespace == bindparam("name"))
LOCK = GET.with_for_update()
ENTRY_COLUMNS = (e.c.namespace, e.c.kind, e.c.name, e.c.doc, e.c.created, e.c.updated)
ENTRY = sa.select(*ENTRY_COLUMNS).where(e.c.namespace == bindparam("n"), e.c.kind == bindparam("kind"), e.c.name == bindparam("name"))
AS_OF = sa.select(sa.func.count(), sa.func.max(t.c.n), sa.func.sum(t.c.version))
ROOM = sa.select(e.c.kind, sa.func.count(), sa.func.sum(e.c.size)).where(e.c.namespace == bindparam("n")).group_by(e.c.kind)


# Namespaces


def _namespace(row: Sequence[Any]) -> Namespace:
    n, name, display_name, description, visibility, protected, *rest = row
    return Namespace(n, name, display_name, description, visibility, bool(protected), *rest)


def get(conn: Connection, name: str) -> Namespace | None:
    """The namespace of this name, compared by byte."""
    return _found(conn, GET, name)


def lock(conn: Connection, name: str) -> Namespace | None:
    """The namespace, its row locked until the transaction ends."""
    return _found(conn, LOCK, name)


def _found(conn: Connection, query: sa.Select[Any], name: str) -> Namespace | None:
    row = conn.execute(query, {"name": name}).first() if _possible(name) else None
    return _namespace(row) if row else None


def _possible(name: str) -> bool:
    """Whether something can have this name: not every database takes a NUL or any length in a look-up."""
    return "\0" not in name and len(name) <= 80


def insert(conn: Connection, about: About) -> Namespace:
    """Keep a new namespace, without entries; its owner is the one that it names. Raises Conflict when the name is taken."""
    now = now_us()
    values = msgspec.structs.asdict(about) | {"created": now, "updated": now, "version": 1}
    try:
        key = conn.execute(sa.insert(t).values(**values)).inserted_primary_key
    except IntegrityError:
        raise Conflict(f"The metadata definition namespace={about.namespace} already exists.") from None
    assert key is not None
    return Namespace(n=int(key[0]), **values)


def replace(conn: Connection, before: Namespace, about: About) -> Namespace:
    """Give a locked namespace other fields, a name too. Raises Conflict when that is taken."""
    values = msgspec.structs.asdict(about) | {"updated": max(now_us(), before.updated), "version": before.version + 1}
    try:
        conn.execute(sa.update(t).where(t.c.n == before.n).values(**values))
    except IntegrityError:
        text = f"Invalid update. It would result in a duplicate metadata definition namespace with the same name of {about.namespace}"
        raise Conflict(text) from None
    return msgspec.structs.replace(before, **values)


def changed(conn: Connection, namespace: Namespace) -> Namespace:
    """The locked namespace after its entries changed: one version on."""
    after = msgspec.structs.replace(namespace, version=namespace.version + 1)
    conn.execute(sa.update(t).where(t.c.n == after.n).values(version=after.version))
    return after


def delete(conn: Connection, namespace: Namespace) -> None:
    """Forget a locked namespace and all that is in it."""
    conn.execute(sa.delete(e).where(e.c.namespace == namespace.n))
    conn.execute(sa.delete(t).where(t.c.n == namespace.n))


def page(conn: Connection, ctx: Context, listing: Listing, marker: Namespace | None) -> list[Namespace]:
    """The namespaces that the caller sees, as many as wanted, in order behind the marker.

    In the default order each scope is a walk of its index, with or without a marker. Other orders read what the caller sees.
    """
    column, ascending = t.c[COLUMNS.get(listing.sort, listing.sort)], listing.ascending
    query = sa.select(t).order_by(*_order(column, ascending)).limit(listing.limit)
    if marker is not None:
        query = query.where(_behind(column, ascending, getattr(marker, column.name), marker.n))
    if listing.resource_types is not None:
        named = sa.select(e.c.namespace).where(e.c.kind == "resource_type", e.c.name.in_(listing.resource_types), e.c.namespace == t.c.n)
        query = query.where(named.exists())
    found = [_namespace(row) for scope in _scopes(ctx, listing.visibility) for row in conn.execute(query.where(*scope))]

    def order(namespace: Namespace) -> tuple[bool, Any, int]:
        value = getattr(namespace, column.name)
        return value is not None, "" if value is None else value, namespace.n

    return sorted(found, key=order, reverse=not ascending)[: listing.limit]


def _scopes(ctx: Context, visibility: str | None) -> list[list[sa.ColumnElement[bool]]]:
    """Conditions for what a caller sees, each with an index; together they hold every namespace once."""
    if ctx.admin:
        return [[] if visibility is None else [t.c.visibility == visibility]]
    found = [[t.c.visibility == "public"]] if visibility != "private" else []
    if visibility != "public" and ctx.project is not None:
        found.append([t.c.owner == ctx.project, t.c.visibility == "private"])
    return found


def _order(column: sa.Column[Any], ascending: bool) -> list[sa.ColumnElement[Any]]:
    """Null before every value, which databases do not agree on, and at last the order of creation."""
    columns: list[sa.ColumnElement[Any]] = [column] if column is t.c.n else [column, t.c.n]
    if column.nullable:
        columns.insert(0, sa.case((column.is_(None), 0), else_=1))
    return [each.asc() if ascending else each.desc() for each in columns]


def _behind(column: sa.Column[Any], ascending: bool, value: Any, n: int) -> sa.ColumnElement[bool]:
    further = t.c.n > n if ascending else t.c.n < n
    if column is t.c.n:
        return further
    later: sa.ColumnElement[bool]
    if value is None:
        later = column.is_not(None) if ascending else sa.false()
        return sa.or_(later, sa.and_(column.is_(None), further))
    if isinstance(value, bool):
        later = column != value if value != ascending else sa.false()
    else:
        later = column > value if ascending else column < value
    if column.nullable and not ascending:
        later = sa.or_(later, column.is_(None))
    return sa.or_(later, sa.and_(column == value, further))


def by_name(conn: Connection, after: str, limit: int) -> list[Namespace]:
    """The namespaces whose names come next in order of their bytes, whoever's they are."""
    return [_namespace(row) for row in conn.execute(sa.select(t).where(t.c.namespace > after).order_by(t.c.namespace).limit(limit))]


# Entries


def _entry(row: Sequence[Any]) -> Entry:
    _, kind, name, doc, created, updated = row
    value: Value = DECODERS[kind].decode(doc)
    return Entry(kind, name, value, created, updated)


def entries(conn: Connection, namespaces: Iterable[Namespace], *kinds: Kind) -> dict[int, list[Entry]]:
    """What is in each of these namespaces, by its n, oldest first; of these kinds, or of all."""
    found: dict[int, list[Entry]] = {namespace.n: [] for namespace in namespaces}
    if not found:
        return found
    query = sa.select(*ENTRY_COLUMNS).where(e.c.namespace.in_(found))
    if kinds:
        query = query.where(e.c.kind.in_(kinds))
    for row in conn.execute(query):
        found[row[0]].append(_entry(row))
    for each in found.values():
        each.sort(key=lambda entry: (entry.created, entry.name))
    return found


def entry(conn: Connection, namespace: Namespace, kind: Kind, name: str) -> Entry | None:
    """One entry."""
    row = conn.execute(ENTRY, {"n": namespace.n, "kind": kind, "name": name}).first() if _possible(name) else None
    return _entry(row) if row else None


def add(conn: Connection, namespace: Namespace, new: Sequence[Entry]) -> list[Entry]:
    """Put entries into a locked namespace, in this order of creation. Raises Conflict for a name that is there, QuotaExceeded."""
    if not new:
        return []
    check_distinct(new, namespace.namespace)
    for there in _there(conn, namespace, new):
        raise exists(*there, namespace.namespace)
    now = now_us()
    kept = [msgspec.structs.replace(each, created=now + at, updated=now + at) for at, each in enumerate(new)]
    conn.execute(sa.insert(e), [_values(each) | {"namespace": namespace.n, "created": each.created} for each in kept])
    for name in sorted(each.name for each in kept if each.kind == "resource_type"):  # in one order: two who add the same do not deadlock
        missing.insert(conn, types, name=name, created=now, updated=now)
    _check_room(conn, namespace)
    return kept


def _there(conn: Connection, namespace: Namespace, new: Sequence[Entry]) -> Iterable[tuple[Kind, str]]:
    """Those of the new entries whose names are taken."""
    for kind in dict.fromkeys(each.kind for each in new):
        names = [each.name for each in new if each.kind == kind]
        query = sa.select(e.c.name).where(e.c.namespace == namespace.n, e.c.kind == kind, e.c.name.in_(names)).order_by(e.c.name)
        yield from ((kind, name) for (name,) in conn.execute(query))


def put(conn: Connection, namespace: Namespace, before: Entry, after: Entry) -> Entry:
    """Replace an entry of a locked namespace, its name too. Raises Conflict when that is another's, QuotaExceeded."""
    if after.name != before.name and entry(conn, namespace, after.kind, after.name):
        raise exists(after.kind, after.name, namespace.namespace)
    after = msgspec.structs.replace(after, created=before.created, updated=max(now_us(), before.updated))
    conn.execute(sa.update(e).where(e.c.namespace == namespace.n, e.c.kind == before.kind, e.c.name == before.name).values(_values(after)))
    _check_room(conn, namespace)
    return after


def _values(kept: Entry) -> dict[str, Any]:
    doc = msgspec.json.encode(kept.value).decode()
    return {"kind": kept.kind, "name": kept.name, "doc": doc, "size": size(kept), "updated": kept.updated}


def _check_room(conn: Connection, namespace: Namespace) -> None:
    counted = conn.execute(ROOM, {"n": namespace.n}).all()
    whole = sum(int(size_bytes) for _, _, size_bytes in counted)
    for kind, count, _ in counted:
        check_room(kind, count, whole)


def remove(conn: Connection, namespace: Namespace, kind: Kind, name: str | None = None) -> None:
    """Take one entry, or all of a kind, out of a locked namespace. A resource type stays known."""
    chosen = sa.delete(e).where(e.c.namespace == namespace.n, e.c.kind == kind)
    conn.execute(chosen if name is None else chosen.where(e.c.name == name))


def resource_types(conn: Connection) -> list[tuple[str, int, int]]:
    """Every resource type that was ever named: name, created, updated, by name."""
    return [(name, created, updated) for name, created, updated in conn.execute(sa.select(types).order_by(types.c.name))]


def counts(conn: Connection, namespaces: Iterable[Namespace]) -> dict[int, dict[Kind, int]]:
    """How many entries of each kind these namespaces have, by their n; a kind of which there is none is left out."""
    found: dict[int, dict[Kind, int]] = {namespace.n: {} for namespace in namespaces}
    if found:
        query = sa.select(e.c.namespace, e.c.kind, sa.func.count()).where(e.c.namespace.in_(found)).group_by(e.c.namespace, e.c.kind)
        for n, kind, count in conn.execute(query):
            found[n][kind] = count
    return found


def fill(conn: Connection, trees: Sequence[Tree]) -> None:
    """Put namespaces into a database that has none, in three statements: at a first start each millisecond counts."""
    now = now_us()
    conn.execute(
        sa.insert(t),
        [msgspec.structs.asdict(tree.about) | {"n": n, "created": now, "updated": now, "version": 1} for n, tree in enumerate(trees, 1)],
    )
    kept = [(n, msgspec.structs.replace(each, updated=now + at)) for n, tree in enumerate(trees, 1) for at, each in enumerate(tree.entries)]
    conn.execute(sa.insert(e), [_values(each) | {"namespace": n, "created": each.updated} for n, each in kept])
    names = sorted({each.name for _, each in kept if each.kind == "resource_type"})
    conn.execute(sa.insert(types), [{"name": name, "created": now, "updated": now} for name in names])


def as_of(conn: Connection) -> tuple[Any, ...]:
    """What is another whenever a namespace, or something in one, came, went or changed: numbers come once, and versions grow."""
    return tuple(conn.execute(AS_OF).one())


def about_images(conn: Connection) -> list[tuple[Namespace, list[Entry]]]:
    """The namespaces that apply to images, with what they define."""
    named = sa.select(e.c.namespace).where(e.c.kind == "resource_type", e.c.name == IMAGES)
    found = [_namespace(row) for row in conn.execute(sa.select(t).where(sa.or_(t.c.n.in_(named), t.c.namespace == COMMON)).order_by(t.c.n))]
    inside = entries(conn, found, "property", "object", "resource_type")
    return [(namespace, inside[namespace.n]) for namespace in found]
