"""Metadata definitions are the same on every database: told apart by every byte, listed in one order, whole or not there, whoever races whom."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.context import Context
from ikon.db import metadefs, schema, tables
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.metadef import MOST_BYTES, MOST_ENTRIES, Association, Entry, Kind, Listing, Tag, parse_entry, parse_tree
from ikon.problems import Conflict, NotFound, QuotaExceeded
from ikon.service import metadefs as verbs
from tests.contract.test_verbs_databases import ADMIN, ALICE, kit_on

BOB = Context("bob", "beta", None, frozenset(("member", "reader")))
NAMES = ["a", "A", "á", "a\u0301", "ß", "ss", "Z", "z", "🐧", "a b", "a ", "x" * 80, "OS::Glance::Image", "%2F"]


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


async def make(kit: Kit, name: str, **fields: Any) -> None:
    await verbs.create(kit, ADMIN, parse_tree({"namespace": name} | fields))


def prop(name: str = "p", **fields: Any) -> Entry:
    return parse_entry("property", {"name": name, "title": "T", "type": "string"} | fields)


def tag(name: str) -> Entry:
    return Entry("tag", name, Tag())


async def names(kit: Kit, name: str, kind: Kind, who: Context = ADMIN) -> list[str]:
    return [entry.name for entry in await verbs.browse_entries(kit, who, name, kind)]


async def rows(kit: Kit) -> tuple[int, int]:
    """Namespaces, and entries that belong to none."""

    def count(conn: Connection) -> tuple[int, int]:
        t, e = tables.metadef_namespaces, tables.metadef_entries
        orphans = sa.select(sa.func.count()).select_from(e).where(~sa.exists().where(t.c.n == e.c.namespace))
        return int(conn.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()), int(conn.execute(orphans).scalar_one())

    return await kit.db.read(count)


async def test_a_namespace_is_kept_with_all_that_it_was_given(kit: Kit) -> None:
    given = {
        "display_name": "Ä 🐧", "description": "d" * 500, "visibility": "public", "protected": True, "owner": "o" * 255,
        "properties": {name: {"title": "T", "type": "number", "minimum": -(2**62), "maximum": 0.5, "enum": ["🐧", ""]} for name in NAMES},
        "objects": [{"name": "ö", "description": "x" * 70_000, "required": ["k"], "properties": {"k/y": {"title": "", "type": "array"}}}],
        "tags": [{"name": name} for name in NAMES],
        "resource_type_associations": [{"name": name, "prefix": "p_", "properties_target": "image"} for name in NAMES],
    }  # fmt: skip
    tree = parse_tree({"namespace": "🐧 x"} | given)

    await verbs.create(kit, ADMIN, tree)
    namespace, entries = await verbs.show(kit, BOB, "🐧 x")

    about = {name: getattr(namespace, name) for name in ("namespace", "display_name", "description", "visibility", "protected", "owner")}
    assert about == msgspec.structs.asdict(tree.about)
    assert [(entry.kind, entry.name, entry.value) for entry in entries] == [(entry.kind, entry.name, entry.value) for entry in tree.entries]


async def test_names_differ_by_every_byte(kit: Kit) -> None:
    for name in NAMES:
        await make(kit, name, visibility="public")
        with pytest.raises(Conflict):
            await make(kit, name)
        await verbs.add(kit, ADMIN, "a", tag(name))
        with pytest.raises(Conflict):
            await verbs.add(kit, ADMIN, "a", tag(name))

    for absent in ("S", "b", "a  ", "x" * 79, "x" * 8000, "", "a\0b"):
        with pytest.raises(NotFound):
            await verbs.show(kit, ADMIN, absent)
        with pytest.raises(NotFound):
            await verbs.show_entry(kit, ADMIN, "a", "tag", absent)
    assert [each.namespace for each in await kit.db.read(metadefs.by_name, "", 99)] == sorted(NAMES, key=lambda name: name.encode())
    assert await names(kit, "a", "tag", BOB) == NAMES


ORDERS = [*itertools.product(("created_at", "id", "updated_at", "namespace", "display_name", "description", "visibility", "protected", "owner"), (True, False))]  # fmt: skip


async def test_every_order_and_filter_gives_pages_that_hold_each_namespace_once(kit: Kit) -> None:
    fields = itertools.product((None, "b", "B", ""), ("public", "private"), ("alpha", "beta"))
    for at, (display_name, visibility, owner) in enumerate(fields):
        more = {"display_name": display_name, "description": display_name} if display_name is not None else {}
        types = [{"name": f"T{at % 3}"}]
        await make(
            kit, f"n{at * 7 % 16:02}", visibility=visibility, owner=owner, protected=at % 4 == 0, resource_type_associations=types, **more
        )
    made = await kit.db.read(metadefs.by_name, "", 99)
    inside = await kit.db.read(metadefs.entries, made)

    for who, (sort, ascending) in itertools.product((ADMIN, ALICE, BOB), ORDERS):
        for visibility, types in ((None, None), ("public", None), ("private", ("T0",)), (None, ("T1", "T2", "none"))):
            seen = [each for each in made if who is ADMIN or each.visibility == "public" or each.owner == who.project]
            seen = [each for each in seen if visibility in (None, each.visibility)]
            seen = [each for each in seen if types is None or {entry.name for entry in inside[each.n]} & set(types)]
            column = {"created_at": "n", "id": "n", "updated_at": "updated"}.get(sort, sort)
            order = sorted(seen, key=lambda each: ((v := getattr(each, column)) is not None, v or "" if v is None else v, each.n))
            wanted = [each.namespace for each in (order if ascending else reversed(order))]
            assert await walk(kit, who, Listing(3, None, sort, ascending, visibility, types)) == wanted, (who.project, sort, ascending)


async def walk(kit: Kit, who: Context, listing: Listing) -> list[str]:
    """Every page, one after the other."""
    found: list[str] = []
    while True:
        page, marker = await verbs.browse(kit, who, listing)
        assert len(page) <= listing.limit
        found += [namespace.namespace for namespace, _ in page]
        if marker is None:
            return found
        listing = msgspec.structs.replace(listing, marker=marker)


async def test_of_many_who_create_one_namespace_at_one_time_one_does(kit: Kit) -> None:
    trees = [parse_tree({"namespace": "one", "tags": [{"name": f"t{n}"}], "resource_type_associations": [{"name": "T"}]}) for n in range(8)]

    answers = await asyncio.gather(*(verbs.create(kit, ADMIN, tree) for tree in trees), return_exceptions=True)

    (winner,) = [n for n, answer in enumerate(answers) if isinstance(answer, tuple)]
    assert sum(isinstance(answer, Conflict) for answer in answers) == 7
    assert await names(kit, "one", "tag") == [f"t{winner}"]
    assert await rows(kit) == (1, 0)


async def test_of_many_who_add_one_entry_at_one_time_one_does_and_none_is_lost_beside_it(kit: Kit) -> None:
    await make(kit, "one")

    same = [verbs.add(kit, ADMIN, "one", prop(description=f"{n}")) for n in range(6)]
    others = [verbs.add(kit, ADMIN, "one", parse_entry("resource_type", {"name": f"T{n % 3}", "prefix": f"{n}"})) for n in range(6)]
    answers = await asyncio.gather(*same, *others, return_exceptions=True)

    assert Counter(type(answer) for answer in answers) == {Entry: 4, Conflict: 8}
    assert (await names(kit, "one", "property"), sorted(await names(kit, "one", "resource_type"))) == (["p"], ["T0", "T1", "T2"])
    assert [name for name, _, _ in await verbs.resource_types(kit, BOB)] == ["T0", "T1", "T2"]
    namespace, _ = await verbs.show(kit, ADMIN, "one")
    assert namespace.version == 5


async def test_whoever_adds_to_a_namespace_that_is_being_deleted_leaves_nothing_behind(kit: Kit) -> None:
    for n in range(6):
        await make(kit, f"n{n}", tags=[{"name": "t"}])

        adding = [verbs.add(kit, ADMIN, f"n{n}", prop(f"p{m}")) for m in range(5)]
        bulk = [verbs.set_tags(kit, ADMIN, f"n{n}", [tag(f"b{m}")], append=True) for m in range(2)]
        answers = await asyncio.gather(*adding[:3], verbs.remove(kit, ADMIN, f"n{n}"), *adding[3:], *bulk, return_exceptions=True)

        assert answers[3] is None
        assert all(isinstance(answer, Entry | NotFound) or answer is None for answer in answers), answers
        with pytest.raises(NotFound):
            await verbs.show(kit, ADMIN, f"n{n}")
    assert await rows(kit) == (0, 0)


async def test_of_two_who_take_one_name_by_renaming_one_does(kit: Kit) -> None:
    for name in ("a", "b"):
        await make(kit, name)
        await verbs.add(kit, ADMIN, name, prop("x"))
        await verbs.add(kit, ADMIN, name, prop("y"))

    answers = await asyncio.gather(
        *(verbs.replace(kit, ADMIN, name, parse_tree({"namespace": "c"}).about) for name in "ab"), return_exceptions=True
    )
    entries = await asyncio.gather(*(verbs.replace_entry(kit, ADMIN, "c", name, prop("z")) for name in "xy"), return_exceptions=True)

    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "Namespace"]
    assert sorted(type(answer).__name__ for answer in entries) == ["Conflict", "Entry"]
    assert await rows(kit) == (2, 0)
    assert sorted(await names(kit, "c", "property"))[1:] == ["z"]


async def test_of_several_who_replace_all_tags_one_comes_last_and_whole(kit: Kit) -> None:
    await make(kit, "one", tags=[{"name": "old"}])
    sets = [[tag(f"{n}-{m}") for m in range(20)] for n in range(5)]

    await asyncio.gather(*(verbs.set_tags(kit, ADMIN, "one", each, append=False) for each in sets))

    assert await names(kit, "one", "tag") in [[each.name for each in group] for group in sets]


async def test_what_does_not_fit_changes_nothing(kit: Kit) -> None:
    await make(kit, "one", tags=[{"name": f"t{n}"} for n in range(MOST_ENTRIES)])
    with pytest.raises(QuotaExceeded, match=r"1000 entries of the kind tag at most\. Attempted: 1001"):
        await verbs.add(kit, ADMIN, "one", tag("more"))
    large = "x" * (MOST_BYTES // 4)
    for n in range(3):
        await verbs.add(kit, ADMIN, "one", prop(f"p{n}", description=large))
    with pytest.raises(QuotaExceeded, match="bytes at most"):
        await verbs.add(kit, ADMIN, "one", prop("p3", description=large))
    await verbs.add(kit, ADMIN, "one", prop("p3"))
    with pytest.raises(QuotaExceeded, match="bytes at most"):
        await verbs.replace_entry(kit, ADMIN, "one", "p3", prop("p3", description=large))
    with pytest.raises(Conflict):
        await verbs.set_tags(kit, ADMIN, "one", [tag("x"), tag("x")], append=False)
    with pytest.raises(Conflict):
        await make(kit, "two", tags=[{"name": "x"}, {"name": "x"}])

    assert (await names(kit, "one", "property"), len(await names(kit, "one", "tag"))) == (["p0", "p1", "p2", "p3"], MOST_ENTRIES)
    assert (await verbs.show_entry(kit, ADMIN, "one", "property", "p3")).value == prop().value
    assert await rows(kit) == (1, 0)


async def test_a_page_and_a_tree_take_as_many_statements_for_many_as_for_one(kit: Kit) -> None:
    for n in range(30):
        properties = {f"p{m}": {"title": "T", "type": "string"} for m in range(50)}
        await make(kit, f"n{n:02}", visibility="public", properties=properties, resource_type_associations=[{"name": "T"}])

    def listed(conn: Connection, limit: int) -> int:
        with counted(conn) as statements:
            page, _ = verbs._browse(conn, ALICE, Listing(limit, None, "created_at", False))
        assert (len(page), page[0][0].namespace, [entry.kind for entry in page[0][1]]) == (limit, "n29", ["resource_type"])
        return len(statements)

    def shown(conn: Connection) -> int:
        with counted(conn) as statements:
            _, entries = verbs._show(conn, ALICE, "n07")
        assert len(entries) == 51
        return len(statements)

    assert [await kit.db.read(listed, limit) for limit in (1, 25)] == [3, 3]
    assert await kit.db.read(shown) == 2


@contextmanager
def counted(conn: Connection) -> Iterator[list[str]]:
    """The statements that run meanwhile."""
    ran: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *more: Any) -> None:
        ran.append(statement)

    sa.event.listen(conn, "before_cursor_execute", note)
    yield ran
    sa.event.remove(conn, "before_cursor_execute", note)


async def test_no_number_is_given_twice(kit: Kit) -> None:
    numbers = []
    for _ in range(3):
        await make(kit, "one")
        namespace, _ = await verbs.show(kit, ADMIN, "one")
        numbers.append(namespace.n)
        await verbs.remove(kit, ADMIN, "one")

    assert numbers == sorted(set(numbers))


async def test_a_resource_type_stays_known_when_nothing_applies_to_it_any_more(kit: Kit) -> None:
    await make(kit, "one", resource_type_associations=[{"name": "T", "prefix": "p_"}])
    await verbs.remove_entry(kit, ADMIN, "one", "resource_type", "T")
    first = await verbs.resource_types(kit, ALICE)
    await verbs.add(kit, ADMIN, "one", Entry("resource_type", "T", Association()))
    await verbs.remove(kit, ADMIN, "one")

    assert await verbs.resource_types(kit, ALICE) == first
    assert [name for name, _, _ in first] == ["T"]
    assert json.loads(msgspec.json.encode(first)) == [["T", first[0][1], first[0][1]]]
