"""Metadata definitions: namespaces, and the objects, properties, tags and resource types in them.

A namespace that a caller does not see does not exist for it: one answer for both. Whoever sees one may read what is in it, as far as the
rules go; what they refuse then is Forbidden. The functions of a connection serve other verbs inside their own transactions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from ikon import log, policy
from ikon.context import Context
from ikon.db import events, metadefs
from ikon.kit import Kit
from ikon.model.metadef import About, Entry, Kind, Listing, Namespace, Tree, visible
from ikon.problems import Forbidden, NotFound

#: Reading a namespace shows what is in it: rules beside its own that must allow that.
WHOLE = ("get_metadef_objects", "get_metadef_properties", "get_metadef_tags", "list_metadef_resource_types")
Filled = tuple[Namespace, list[Entry]]


class Rules(NamedTuple):
    """Names of the rules of one kind of entry, and what messages and events call it."""

    list: str
    get: str
    add: str
    change: str
    remove: str
    clear: tuple[str, ...]
    noun: str
    event: str


RULES: dict[Kind, Rules] = {
    "object": Rules(
        "get_metadef_objects",
        "get_metadef_object",
        "add_metadef_object",
        "modify_metadef_object",
        "delete_metadef_object",
        ("delete_metadef_namespace",),
        "metadata object",
        "metadef_object",
    ),
    "property": Rules(
        "get_metadef_properties",
        "get_metadef_property",
        "add_metadef_property",
        "modify_metadef_property",
        "remove_metadef_property",
        ("delete_metadef_namespace",),
        "property",
        "metadef_property",
    ),
    "tag": Rules(
        "get_metadef_tags",
        "get_metadef_tag",
        "add_metadef_tag",
        "modify_metadef_tag",
        "delete_metadef_tag",
        ("delete_metadef_namespace", "delete_metadef_tags"),
        "metadata tag",
        "metadef_tag",
    ),
    "resource_type": Rules(
        "list_metadef_resource_types",
        "list_metadef_resource_types",
        "add_metadef_resource_type_association",
        "add_metadef_resource_type_association",
        "remove_metadef_resource_type_association",
        ("remove_metadef_resource_type_association",),
        "resource type",
        "metadef_resource_type",
    ),
}
#: What the events of clearing a namespace of one kind are called.
CLEARED: dict[Kind, str] = {"object": "delete_objects", "property": "delete_properties", "tag": "delete_tags"}


def _absent(name: str) -> NotFound:
    return NotFound(f"Metadata definition namespace={name} was not found.")


def _require(ctx: Context, action: str, namespace: Namespace | None = None) -> None:
    """Raises Forbidden unless the rule allows it; NotFound for a caller who may not even read what it is about."""
    if not policy.allows(ctx, action, namespace):
        if not policy.allows(ctx, "get_metadef_namespace", namespace):
            raise NotFound if namespace is None else _absent(namespace.namespace)
        raise Forbidden(f"You are not authorized to complete {action} action.")


def reachable(conn: Connection, ctx: Context, name: str, *, lock: bool = False) -> Namespace:
    """The namespace, if the caller may see it. Raises NotFound."""
    namespace = metadefs.lock(conn, name) if lock else metadefs.get(conn, name)
    if namespace is None or not visible(ctx, namespace) or not policy.allows(ctx, "get_metadef_namespace", namespace):
        raise _absent(name)
    return namespace


# Namespaces


async def browse(kit: Kit, ctx: Context, listing: Listing) -> tuple[list[Filled], str | None]:
    """A page of the namespaces that the caller sees, each with its resource types; and the marker of the next one, if there may be one.

    Raises NotFound for a marker that is not among them, Forbidden.
    """
    for action in ("get_metadef_namespaces", "list_metadef_resource_types"):
        _require(ctx, action)
    return await kit.db.read(_browse, ctx, listing) if listing.limit else ([], None)


def _browse(conn: Connection, ctx: Context, listing: Listing) -> tuple[list[Filled], str | None]:
    marker = reachable(conn, ctx, listing.marker) if listing.marker is not None else None
    shown: list[Namespace] = []
    while len(shown) < listing.limit:  # once, unless an operator's rules hide some of what was found
        found = metadefs.page(conn, ctx, listing, marker)
        shown += [namespace for namespace in found if policy.allows(ctx, "get_metadef_namespace", namespace)]
        if len(found) < listing.limit:
            break
        marker = found[-1]
    full = len(shown) >= listing.limit
    shown = shown[: listing.limit]
    inside = metadefs.entries(conn, shown, "resource_type")
    return [(namespace, inside[namespace.n]) for namespace in shown], shown[-1].namespace if full else None


async def show(kit: Kit, ctx: Context, name: str) -> Filled:
    """A namespace with all that is in it. Raises NotFound, Forbidden."""
    return await kit.db.read(_show, ctx, name)


def _show(conn: Connection, ctx: Context, name: str) -> Filled:
    namespace = reachable(conn, ctx, name)
    for action in WHOLE:
        _require(ctx, action, namespace)
    return namespace, metadefs.entries(conn, [namespace])[namespace.n]


async def create(kit: Kit, ctx: Context, tree: Tree) -> Filled:
    """Make a namespace with all that is in it, or nothing. Raises NotFound, Forbidden, Conflict, QuotaExceeded."""
    wanted = _as_wanted(ctx, tree.about)
    for action in ("add_metadef_namespace", *(RULES[kind].add for kind in dict.fromkeys(entry.kind for entry in tree.entries))):
        _require(ctx, action)
        policy.require(ctx, action, wanted)
    made = await kit.db.write(plant, ctx, tree)
    log.get().info("namespace created", namespace=tree.about.namespace, entries=len(tree.entries), request=ctx.request_id)
    return made


def plant(conn: Connection, ctx: Context, tree: Tree) -> Filled:
    """Keep a new namespace and its entries, and tell of them. Raises Conflict, QuotaExceeded."""
    namespace = metadefs.insert(conn, owned(ctx, tree.about))
    events.defined(conn, ctx, "metadef_namespace.create", namespace)
    return namespace, put_in(conn, ctx, namespace, tree.entries)


def owned(ctx: Context, about: About) -> About:
    """What is said of a namespace, with the caller's project as its owner where none is named."""
    return about if about.owner is not None else msgspec.structs.replace(about, owner=ctx.project)


def _as_wanted(ctx: Context, about: About) -> Namespace:
    """What a namespace would be, for rules that name its owner: nobody puts one into a project in which he could not have made it."""
    return Namespace(n=0, **msgspec.structs.asdict(owned(ctx, about)), created=0, updated=0, version=0)


async def replace(kit: Kit, ctx: Context, name: str, about: About) -> Namespace:
    """Give a namespace other fields, a name too; what is in it stays. Raises NotFound, Forbidden, Conflict."""
    return await kit.db.write(_replace, ctx, name, about)


def _replace(conn: Connection, ctx: Context, name: str, about: About) -> Namespace:
    before = reachable(conn, ctx, name, lock=True)
    _require(ctx, "modify_metadef_namespace", before)
    policy.require(ctx, "modify_metadef_namespace", _as_wanted(ctx, about))
    after = metadefs.replace(conn, before, owned(ctx, about))
    events.defined(conn, ctx, "metadef_namespace.update", after, name_old=name)
    return after


async def remove(kit: Kit, ctx: Context, name: str) -> None:
    """Delete a namespace with all that is in it. Raises NotFound, Forbidden."""
    await kit.db.write(_remove, ctx, name)
    log.get().info("namespace deleted", namespace=name, request=ctx.request_id)


def _remove(conn: Connection, ctx: Context, name: str) -> None:
    namespace = reachable(conn, ctx, name, lock=True)
    _require(ctx, "delete_metadef_namespace", namespace)
    _refuse_protected(namespace, "namespace", name)
    uproot(conn, ctx, namespace)


def uproot(conn: Connection, ctx: Context, namespace: Namespace) -> None:
    """Forget a locked namespace with all that is in it, and tell of it."""
    metadefs.delete(conn, namespace)
    gone = msgspec.structs.replace(namespace, version=namespace.version + 1)
    events.defined(conn, ctx, "metadef_namespace.delete", gone)


def _refuse_protected(namespace: Namespace, what: str, name: str) -> None:
    if namespace.protected:
        raise Forbidden(f"Metadata definition {what} {name} is protected and cannot be deleted.")


# What is in them


async def browse_entries(kit: Kit, ctx: Context, name: str, kind: Kind) -> list[Entry]:
    """All entries of one kind in a namespace, oldest first. Raises NotFound, Forbidden."""
    return await kit.db.read(_browse_entries, ctx, name, kind)


def _browse_entries(conn: Connection, ctx: Context, name: str, kind: Kind) -> list[Entry]:
    namespace = reachable(conn, ctx, name)
    _require(ctx, RULES[kind].list, namespace)
    return metadefs.entries(conn, [namespace], kind)[namespace.n]


async def show_entry(kit: Kit, ctx: Context, name: str, kind: Kind, entry: str, resource_type: str | None = None) -> Entry:
    """One entry. resource_type: `entry` begins with what this namespace's keys begin with there. Raises NotFound, Forbidden."""
    return await kit.db.read(_show_entry, ctx, name, kind, entry, resource_type)


def _show_entry(conn: Connection, ctx: Context, name: str, kind: Kind, entry: str, resource_type: str | None) -> Entry:
    namespace = reachable(conn, ctx, name)
    _require(ctx, RULES[kind].get, namespace)
    if resource_type is not None:
        entry = _bare(conn, namespace, entry, resource_type)
    return _existing(conn, namespace, kind, entry)


def _bare(conn: Connection, namespace: Namespace, key: str, resource_type: str) -> str:
    """A key as the namespace has it, without what it begins with on such resources."""
    there = metadefs.entry(conn, namespace, "resource_type", resource_type)
    if there is None:
        raise NotFound(f"The metadata definition resource-type with name={resource_type}, was not found.")
    prefix = prefix_of(there)
    if not key.startswith(prefix):
        raise NotFound(f"Property {key} does not start with the expected resource type association prefix of '{prefix}'.")
    return key.removeprefix(prefix)


def prefix_of(association: Entry) -> str:
    """What keys begin with on resources of this type."""
    return getattr(association.value, "prefix", "") or ""


def _existing(conn: Connection, namespace: Namespace, kind: Kind, name: str) -> Entry:
    found = metadefs.entry(conn, namespace, kind, name)
    if found is None:
        raise NotFound(f"Could not find {RULES[kind].noun} {name}")
    return found


async def add(kit: Kit, ctx: Context, name: str, new: Entry) -> Entry:
    """Put an entry into a namespace. Raises NotFound, Forbidden, Conflict, QuotaExceeded."""
    return (await kit.db.write(_add, ctx, name, [new], RULES[new.kind].add))[0]


def _add(conn: Connection, ctx: Context, name: str, new: Sequence[Entry], action: str) -> list[Entry]:
    namespace = reachable(conn, ctx, name, lock=True)
    _require(ctx, action, namespace)
    return put_in(conn, ctx, metadefs.changed(conn, namespace), new)


def put_in(conn: Connection, ctx: Context, namespace: Namespace, new: Sequence[Entry]) -> list[Entry]:
    """Put entries into a locked namespace, and tell of each. Raises Conflict, QuotaExceeded."""
    kept = metadefs.add(conn, namespace, new)
    events.added(conn, ctx, namespace, [(f"{RULES[entry.kind].event}.create", entry) for entry in kept])
    return kept


async def set_tags(kit: Kit, ctx: Context, name: str, new: Sequence[Entry], *, append: bool) -> None:
    """Make these the tags of a namespace, or add them to those there are. Raises NotFound, Forbidden, Conflict, QuotaExceeded."""
    await kit.db.write(_set_tags, ctx, name, new, append)


def _set_tags(conn: Connection, ctx: Context, name: str, new: Sequence[Entry], append: bool) -> None:
    namespace = reachable(conn, ctx, name, lock=True)
    _require(ctx, "add_metadef_tags", namespace)
    if not append:
        metadefs.remove(conn, namespace, "tag")
    put_in(conn, ctx, metadefs.changed(conn, namespace), new)


async def replace_entry(kit: Kit, ctx: Context, name: str, old: str, new: Entry) -> Entry:
    """Put another entry in the place of one of its kind, its name too. Raises NotFound, Forbidden, Conflict, QuotaExceeded."""
    return await kit.db.write(_replace_entry, ctx, name, old, new)


def _replace_entry(conn: Connection, ctx: Context, name: str, old: str, new: Entry) -> Entry:
    namespace = reachable(conn, ctx, name, lock=True)
    _require(ctx, RULES[new.kind].change, namespace)
    kept = metadefs.put(conn, namespace, _existing(conn, namespace, new.kind, old), new)
    events.defined(conn, ctx, f"{RULES[new.kind].event}.update", metadefs.changed(conn, namespace), kept, old)
    return kept


async def remove_entry(kit: Kit, ctx: Context, name: str, kind: Kind, entry: str) -> None:
    """Take one entry out of a namespace. Raises NotFound, Forbidden."""
    await kit.db.write(_remove_entry, ctx, name, kind, entry)


def _remove_entry(conn: Connection, ctx: Context, name: str, kind: Kind, entry: str) -> None:
    namespace = reachable(conn, ctx, name, lock=True)
    _require(ctx, RULES[kind].remove, namespace)
    gone = _existing(conn, namespace, kind, entry)
    _refuse_protected(namespace, "resource-type-association" if kind == "resource_type" else kind, entry)
    metadefs.remove(conn, namespace, kind, entry)
    events.defined(conn, ctx, f"{RULES[kind].event}.delete", metadefs.changed(conn, namespace), gone)


async def clear(kit: Kit, ctx: Context, name: str, kind: Kind) -> None:
    """Take all entries of one kind out of a namespace. Raises NotFound, Forbidden."""
    await kit.db.write(_clear, ctx, name, kind)


def _clear(conn: Connection, ctx: Context, name: str, kind: Kind) -> None:
    namespace = reachable(conn, ctx, name, lock=True)
    for action in RULES[kind].clear:
        _require(ctx, action, namespace)
    _refuse_protected(namespace, "namespace", name)
    metadefs.remove(conn, namespace, kind)
    events.defined(conn, ctx, f"metadef_namespace.{CLEARED[kind]}", metadefs.changed(conn, namespace))


async def resource_types(kit: Kit, ctx: Context) -> list[tuple[str, int, int]]:
    """Every resource type that a namespace ever applied to: name, created, updated. Raises NotFound, Forbidden."""
    _require(ctx, "list_metadef_resource_types")
    return await kit.db.read(metadefs.resource_types)
