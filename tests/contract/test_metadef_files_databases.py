"""Files of metadata definitions mean the same on every database: what is loaded comes back byte by byte, whole or not at all."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from ikon.context import Context
from ikon.db import schema
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.definition_file import Existing, decode, file_name, form, parse, text
from ikon.model.metadef import MOST_ENTRIES, Tree
from ikon.problems import Forbidden, NotFound, QuotaExceeded
from ikon.service import lint, metadef_files
from ikon.service import metadefs as verbs
from ikon.service.metadef_files import CATALOGUE, catalogue, load
from tests.contract.test_verbs_databases import ADMIN, ALICE, kit_on
from tests.services.servers import Server
from tests.unit.model.test_definition_file import WHOLE

#: What the catalogue is about.
TYPES = {
    "OS::Cinder::Volume",
    "OS::Glance::Image",
    "OS::Nova::Aggregate",
    "OS::Nova::Flavor",
    "OS::Nova::Server",
    "OS::Trove::Instance",
}
BOB = Context("bob", "beta", None, frozenset(("member", "reader")))


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.slow), pytest.param("postgresql", marks=pytest.mark.slow)]
)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of each kind in turn, for all tests of this file: to make one takes longer than they do."""
    if request.param == "sqlite":
        made = f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/ikon.db"
        schema.upgrade(make_engine(made))
        yield made
        return
    server: Server = request.getfixturevalue({"mariadb": "mariadb", "postgresql": "postgres"}[request.param])
    made = server.new_database()
    schema.upgrade(make_engine(made))
    yield made
    server.drop_database(made)


@pytest.fixture
async def kit(url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    """A kit on that database, in which nothing is defined."""
    async with kit_on(url, tmp_path) as made:
        await forget(made)
        yield made


async def exported(kit: Kit) -> dict[str, bytes]:
    """The files that an export writes."""
    found: dict[str, bytes] = {}
    while page := await metadef_files.browse(kit, ADMIN, max(found, default="")):
        for namespace, _ in page:
            found[namespace.namespace] = text(form(*await metadef_files.show(kit, ADMIN, namespace.namespace)))
    return found


async def forget(kit: Kit) -> None:
    for name in await exported(kit):
        await metadef_files.remove(kit, ADMIN, name, protected=True)


def mine(**fields: Any) -> Tree:
    return parse({"namespace": "Mine"} | fields)


def props(**titles: str) -> dict[str, Any]:
    return {name: {"title": title, "type": "string"} for name, title in titles.items()}


async def version(kit: Kit, name: str = "Mine") -> int:
    return (await metadef_files.show(kit, ADMIN, name))[0].version


async def test_the_catalogue_comes_back_byte_by_byte_and_so_does_what_was_exported(kit: Kit) -> None:
    assert {await load(kit, ADMIN, tree, "skip") for tree in catalogue()} == {"loaded"}
    files = await exported(kit)
    await forget(kit)
    assert await exported(kit) == {}

    assert [await load(kit, ADMIN, parse(decode(content)), "skip") for content in files.values()] == ["loaded"] * 32

    assert await exported(kit) == files
    assert sorted(files.values()) == sorted(path.read_bytes() for path in CATALOGUE.glob("*.json"))


async def test_a_file_with_every_construct_comes_back_from_the_database(kit: Kit) -> None:
    tree = parse(WHOLE)
    assert await load(kit, ADMIN, tree, "skip") == "loaded"

    once = await exported(kit)
    await forget(kit)
    await load(kit, ADMIN, parse(json.loads(once["My::Own"])), "skip")

    assert await exported(kit) == once
    assert json.loads(once["My::Own"])["description"] == WHOLE["description"]


async def test_a_new_embedded_database_has_the_catalogue_and_what_is_removed_stays_removed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    schema.require(make_engine(url), metadef_files.stock)

    async with kit_on(url, tmp_path / "new") as new:
        assert sorted((await exported(new)).values()) == sorted(path.read_bytes() for path in CATALOGUE.glob("*.json"))
        assert {name for name, *_ in await verbs.resource_types(new, ADMIN)} == TYPES
        assert {await load(new, ADMIN, tree, "overwrite") for tree in catalogue()} == {"unchanged"}
        await metadef_files.remove(new, ADMIN, "OS::Compute::TPM", protected=True)
        await load(new, ADMIN, mine(), "skip")
    schema.require(make_engine(url), metadef_files.stock)

    async with kit_on(url, tmp_path / "new") as again:
        found = await exported(again)
    assert (len(found), "Mine" in found, "OS::Compute::TPM" in found) == (32, True, False)


@pytest.mark.parametrize(
    ("existing", "outcome", "left"),
    [
        ("skip", "skipped", {"both": "old", "old": "old"}),
        ("merge", "changed", {"both": "old", "old": "old", "new": "new"}),
        ("prefer-new", "changed", {"both": "new", "old": "old", "new": "new"}),
        ("overwrite", "changed", {"both": "new", "new": "new"}),
    ],
)
async def test_a_namespace_that_is_there_meets_its_file_as_asked(kit: Kit, existing: Existing, outcome: str, left: dict[str, str]) -> None:
    before = mine(properties=props(both="old", old="old"), display_name="Old", tags=[{"name": "x"}])
    after = mine(properties=props(both="new", new="new"), display_name="New", objects=[{"name": "o"}])
    await load(kit, ADMIN, before, "skip")

    assert await load(kit, ADMIN, after, existing) == outcome

    content = form(*await metadef_files.show(kit, ADMIN, "Mine"))
    assert {name: says["title"] for name, says in content["properties"].items()} == left
    assert content["display_name"] == ("New" if existing in ("prefer-new", "overwrite") else "Old")
    assert ("tags" in content, "objects" in content) == (existing != "overwrite", existing != "skip")
    before_again = await version(kit)
    assert await load(kit, ADMIN, after, existing) == ("skipped" if existing == "skip" else "unchanged")
    assert await version(kit) == before_again, "the same once more changes nothing"


async def test_an_entry_that_stays_keeps_its_time_of_creation(kit: Kit) -> None:
    await load(kit, ADMIN, mine(properties=props(a="1", b="1")), "skip")
    _, before = await metadef_files.show(kit, ADMIN, "Mine")

    await load(kit, ADMIN, mine(properties=props(a="1", b="2")), "overwrite")

    _, after = await metadef_files.show(kit, ADMIN, "Mine")
    assert [entry.created for entry in after] == [entry.created for entry in before]
    assert after[0] == before[0]
    assert after[1].updated > before[1].updated


async def test_what_does_not_fit_leaves_the_namespace_as_it_was(kit: Kit) -> None:
    tags = [{"name": f"t{n}"} for n in range(MOST_ENTRIES)]
    await load(kit, ADMIN, mine(tags=tags[: MOST_ENTRIES // 2], properties=props(a="old")), "skip")
    before = await exported(kit)
    more = mine(tags=[{"name": f"u{n}"} for n in range(MOST_ENTRIES // 2 + 1)], properties=props(a="new"), display_name="New")

    with pytest.raises(QuotaExceeded):
        await load(kit, ADMIN, more, "prefer-new")

    assert await exported(kit) == before
    assert await load(kit, ADMIN, more, "overwrite") == "changed"


async def test_of_many_who_load_one_namespace_at_once_one_makes_it(kit: Kit) -> None:
    outcomes = await asyncio.gather(*(load(kit, ADMIN, mine(properties=props(a="1")), "merge") for _ in range(8)))

    assert sorted(outcomes) == ["loaded"] + ["unchanged"] * 7


async def test_only_the_operator_may(kit: Kit) -> None:
    await load(kit, ADMIN, mine(), "skip")

    for deed in (
        load(kit, ALICE, mine(), "overwrite"),
        metadef_files.browse(kit, ALICE, ""),
        metadef_files.show(kit, ALICE, "Mine"),
        metadef_files.remove(kit, ALICE, "Mine", protected=True),
    ):
        with pytest.raises(Forbidden):
            await deed
    assert list(await exported(kit)) == ["Mine"]


async def test_a_protected_namespace_goes_only_when_that_is_said(kit: Kit) -> None:
    await load(kit, ADMIN, mine(protected=True), "skip")

    with pytest.raises(Forbidden, match="protected"):
        await metadef_files.remove(kit, ADMIN, "Mine", protected=False)
    await metadef_files.remove(kit, ADMIN, "Mine", protected=True)
    with pytest.raises(NotFound):
        await metadef_files.remove(kit, ADMIN, "Mine", protected=True)


async def test_the_list_counts_what_is_in_each_namespace(kit: Kit) -> None:
    for name in ("b", "B", "a"):
        await load(kit, ADMIN, parse(WHOLE | {"namespace": name}), "skip")

    found = await metadef_files.browse(kit, ADMIN, "B")

    assert [namespace.namespace for namespace, _ in found] == ["a", "b"], "by the bytes of their names"
    assert found[0][1] == {"property": 7, "object": 2, "tag": 2, "resource_type": 3}
    assert file_name(found[0][0].namespace) == "a.json"


# Images held against definitions


def says(**fields: Any) -> Tree:
    return mine(resource_type_associations=[{"name": "OS::Glance::Image"}], **fields)


async def faults(kit: Kit, who: Context, **properties: str) -> list[str]:
    """Names of what is found on an image with these properties, as `who` sees it."""

    def look(conn: Connection) -> list[str]:
        return [found.property for found in lint._of_new(conn, kit.definitions, who, properties)]

    return await kit.db.read(look)


async def test_definitions_count_as_soon_as_they_are_changed_and_for_those_who_see_them(kit: Kit) -> None:
    assert await faults(kit, ALICE, x="?") == []
    number = {"x": {"title": "X", "type": "integer"}}
    await load(kit, ADMIN, says(properties=number, visibility="private", owner=ALICE.project), "skip")

    assert await faults(kit, ALICE, x="?") == await faults(kit, ADMIN, x="?") == ["x"]
    assert await faults(kit, BOB, x="?") == [], "others do not see the namespace"
    await load(kit, ADMIN, says(properties=number, owner=ALICE.project), "prefer-new")
    assert await faults(kit, BOB, x="?") == ["x"]
    await load(kit, ADMIN, says(properties=props(x="X")), "overwrite")
    assert await faults(kit, BOB, x="?") == []
    await load(kit, ADMIN, says(properties=number), "overwrite")
    await verbs.remove_entry(kit, ADMIN, "Mine", "property", "x")
    assert await faults(kit, BOB, x="?") == []
    await load(kit, ADMIN, says(properties=number), "overwrite")
    await verbs.remove_entry(kit, ADMIN, "Mine", "resource_type", "OS::Glance::Image")
    assert await faults(kit, BOB, x="?") == []
    await load(kit, ADMIN, says(properties=number), "overwrite")
    assert await faults(kit, BOB, x="?") == ["x"]
    await metadef_files.remove(kit, ADMIN, "Mine", protected=True)
    assert await faults(kit, BOB, x="?") == []


async def test_definitions_are_read_once_while_they_stay_as_they_are(kit: Kit) -> None:
    await load(kit, ADMIN, says(properties={"x": {"title": "X", "type": "integer"}}), "skip")
    await faults(kit, ALICE, x="?")

    def definitions(conn: Connection, who: Context) -> object:
        return kit.definitions.of(conn, lint._seen(who))

    first = await kit.db.read(definitions, ALICE)

    assert await kit.db.read(definitions, ALICE) is first
    assert await kit.db.read(definitions, BOB) is first, "who sees the same shares it"
