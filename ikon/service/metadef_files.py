"""Files of metadata definitions: load them, have them back, take namespaces away; and the catalogue that comes with Ikon."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import Connection

import ikon
from ikon import log, policy
from ikon.context import Context
from ikon.db import events, metadefs
from ikon.kit import Kit
from ikon.model import definition_file
from ikon.model.definition_file import Existing, Outcome
from ikon.model.metadef import Entry, Kind, Namespace, Tree
from ikon.problems import Conflict, Forbidden, NotFound
from ikon.service.metadefs import RULES, Filled, plant, put_in, uproot

#: The common definitions, one file for each namespace.
CATALOGUE = Path(ikon.__file__).parent / "catalogue"


def require(ctx: Context) -> None:
    """Raises Forbidden for who may not work on whole namespaces; asked before a file of megabytes is read, too."""
    policy.require(ctx, "manage_metadefs")


async def load(kit: Kit, ctx: Context, tree: Tree, existing: Existing) -> Outcome:
    """Bring in one namespace, all of it or nothing. Raises Forbidden, QuotaExceeded."""
    require(ctx)
    try:
        outcome = await kit.db.write(lay, ctx, tree, existing)
    except Conflict:  # somebody else made it in the meantime: now it is there
        outcome = await kit.db.write(lay, ctx, tree, existing)
    log.get().info("definitions loaded", namespace=tree.about.namespace, outcome=outcome, request=ctx.request_id)
    return outcome


def lay(conn: Connection, ctx: Context, tree: Tree, existing: Existing) -> Outcome:
    """Bring in one namespace, and tell of what that changed. Raises QuotaExceeded."""
    namespace = metadefs.lock(conn, tree.about.namespace)
    if namespace is None:
        plant(conn, ctx, tree)
        return "loaded"
    if existing == "skip":
        return "skipped"
    before = metadefs.entries(conn, [namespace])[namespace.n]
    gone, new, other = _differences(before, definition_file.met(existing, before, tree.entries))
    after = namespace
    if existing != "merge" and any(getattr(namespace, field) != value for field, value in msgspec.structs.asdict(tree.about).items()):
        after = metadefs.replace(conn, namespace, tree.about)
        events.defined(conn, ctx, "metadef_namespace.update", after)
    elif gone or new or other:
        after = metadefs.changed(conn, namespace)
    for entry in gone:
        metadefs.remove(conn, after, entry.kind, entry.name)
        events.defined(conn, ctx, f"{RULES[entry.kind].event}.delete", after, entry)
    for old, entry in other:
        kept = metadefs.put(conn, after, old, entry)
        events.defined(conn, ctx, f"{RULES[entry.kind].event}.update", after, kept)
    put_in(conn, ctx, after, new)
    return "unchanged" if after is namespace else "changed"


def _differences(before: Sequence[Entry], after: Sequence[Entry]) -> tuple[list[Entry], list[Entry], list[tuple[Entry, Entry]]]:
    """What goes, what comes, and what has another value."""
    old, new = ({(entry.kind, entry.name): entry for entry in entries} for entries in (before, after))
    return (
        [entry for key, entry in old.items() if key not in new],
        [entry for key, entry in new.items() if key not in old],
        [(old[key], entry) for key, entry in new.items() if key in old and old[key].value != entry.value],
    )


async def browse(kit: Kit, ctx: Context, after: str) -> list[tuple[Namespace, dict[Kind, int]]]:
    """One page of all namespaces, by name, behind the name `after`, and how many entries of each kind they have. Raises Forbidden."""
    require(ctx)
    return await kit.db.read(_browse, after, kit.settings.limits.page_max)


def _browse(conn: Connection, after: str, limit: int) -> list[tuple[Namespace, dict[Kind, int]]]:
    found = metadefs.by_name(conn, after, limit)
    counted = metadefs.counts(conn, found)
    return [(namespace, counted[namespace.n]) for namespace in found]


async def show(kit: Kit, ctx: Context, name: str) -> Filled:
    """A namespace with all that is in it. Raises NotFound, Forbidden."""
    require(ctx)
    return await kit.db.read(_show, name)


def _show(conn: Connection, name: str) -> Filled:
    namespace = _existing(metadefs.get(conn, name), name)
    return namespace, metadefs.entries(conn, [namespace])[namespace.n]


def _existing(namespace: Namespace | None, name: str) -> Namespace:
    if namespace is None:
        raise NotFound(f"Metadata definition namespace={name} was not found.")
    return namespace


async def remove(kit: Kit, ctx: Context, name: str, *, protected: bool) -> None:
    """Take a namespace away with all that is in it. protected: even a protected one. Raises NotFound, Forbidden."""
    require(ctx)
    await kit.db.write(_remove, ctx, name, protected)
    log.get().info("namespace deleted", namespace=name, request=ctx.request_id)


def _remove(conn: Connection, ctx: Context, name: str, protected: bool) -> None:
    namespace = _existing(metadefs.lock(conn, name), name)
    if namespace.protected and not protected:
        raise Forbidden(f"Metadata definition namespace {name} is protected and cannot be deleted.")
    uproot(conn, ctx, namespace)


def stock(conn: Connection) -> None:
    """Bring the catalogue into a database that has no definitions."""
    metadefs.fill(conn, catalogue())


def catalogue() -> list[Tree]:
    """The namespaces that come with Ikon, by name of their files."""
    return [definition_file.parse(definition_file.decode(path.read_bytes())) for path in sorted(CATALOGUE.glob("*.json"))]
