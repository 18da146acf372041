"""Sharing and tagging mean the same on every database, and the index of lists follows."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection

from ikon.context import Context
from ikon.db import images, index, schema, tables
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.image import Member
from ikon.model.patch import Change
from ikon.problems import Conflict, Forbidden, ImageNotFound, NotFound, QuotaExceeded
from ikon.service import images as verbs
from ikon.service import members, tags
from tests.contract.test_verbs_databases import ADMIN, ALICE, kit_on, new, rows


def of_project(project: str) -> Context:
    return Context("someone", project, None, frozenset(("member", "reader")))


BOB = of_project("beta")


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


async def check_index(kit: Kit) -> None:
    """The index of lists has the rows that the images need, and no other."""
    found = await kit.db.read(index.compare)
    assert (found.missing, found.surplus) == (0, 0)


async def test_an_image_is_shared_answered_left_and_taken_back(kit: Kit, database_url: str) -> None:
    image = await new(kit)
    made = await members.share(kit, ALICE, image.id, "beta")
    assert (made.status, made.created) == ("pending", made.updated)
    await members.share(kit, ALICE, image.id, "gamma")
    with pytest.raises(Conflict, match="is duplicated"):
        await members.share(kit, ALICE, image.id, "beta")
    accepted = await members.answer(kit, BOB, image.id, "beta", "accepted")
    assert accepted == Member("accepted", made.created, accepted.updated)
    assert accepted.updated > made.updated
    with pytest.raises(Forbidden):
        await members.answer(kit, ALICE, image.id, "gamma", "accepted")
    await check_index(kit)
    assert await members.browse(kit, BOB, image.id) == {"beta": accepted}
    assert list(await members.browse(kit, ADMIN, image.id)) == ["beta", "gamma"]
    await members.remove(kit, BOB, image.id, "beta")
    with pytest.raises(ImageNotFound):
        await members.show(kit, BOB, image.id, "beta")
    await members.remove(kit, ALICE, image.id, "gamma")
    with pytest.raises(NotFound, match="gamma not found in the member list"):
        await members.remove(kit, ALICE, image.id, "gamma")
    assert await verbs.show(kit, ALICE, image.id) == msgspec.structs.replace(image, version=6)
    await check_index(kit)
    told = [(kind, version, detail and json.loads(detail)) for _, _, version, _, kind, *_, detail in rows(database_url, tables.events)]
    assert told == [
        ("image.create", 1, None),
        ("image.member.create", 2, {"member_id": "beta", "status": "pending"}),
        ("image.member.create", 3, {"member_id": "gamma", "status": "pending"}),
        ("image.member.update", 4, {"member_id": "beta", "status": "accepted"}),
        ("image.member.delete", 5, {"member_id": "beta", "status": "accepted"}),
        ("image.member.delete", 6, {"member_id": "gamma", "status": "pending"}),
    ]


async def test_projects_and_tags_differ_by_every_byte(kit: Kit) -> None:
    image = await new(kit)
    given = ["a", "A", "a ", "é", "e\u0301", "\U0001f427", "a/b", "x" * 255, "\U0001f427" * 255]
    for name in given:
        await members.share(kit, ALICE, image.id, name)
        await tags.add(kit, ALICE, image.id, name)
    assert list(await members.browse(kit, ALICE, image.id)) == (await verbs.show(kit, ALICE, image.id)).tags == given
    for name in given:
        assert list(await members.browse(kit, of_project(name), image.id)) == [name]
        await members.remove(kit, ALICE, image.id, name)
        await tags.remove(kit, ALICE, image.id, name)
    assert (await verbs.show(kit, ALICE, image.id)).tags == []
    await check_index(kit)


async def test_members_stay_while_an_image_is_not_shared(kit: Kit) -> None:
    image = await new(kit)
    await members.share(kit, ALICE, image.id, "beta")
    await members.answer(kit, BOB, image.id, "beta", "rejected")
    for visibility in ("private", "shared", "community", "shared"):
        await verbs.update(kit, ALICE, image.id, [Change("replace", "visibility", visibility)], None)
        await check_index(kit)
    assert (await members.show(kit, BOB, image.id, "beta")).status == "rejected"


async def test_an_image_shared_with_a_thousand_projects_can_be_changed_and_deleted(kit: Kit) -> None:
    image = await new(kit, name="busy")
    crowd = {f"project-{n}": Member(("pending", "accepted", "rejected")[n % 3], n, n) for n in range(1000)}

    def crowded(conn: Connection) -> None:
        images.save(conn, image, msgspec.structs.replace(image, members=crowd), touch=False)

    await kit.db.write(crowded)
    with pytest.raises(QuotaExceeded, match="Attempted: 1001, Maximum: 128"):
        await members.share(kit, ALICE, image.id, "beta")
    await verbs.update(kit, ALICE, image.id, [Change("replace", "name", "renamed"), Change("replace", "os_hidden", True)], None)
    await tags.add(kit, ALICE, image.id, "a")
    await check_index(kit)
    for visibility in ("private", "shared"):
        await verbs.update(kit, ALICE, image.id, [Change("replace", "visibility", visibility)], None)
    await check_index(kit)
    assert await members.browse(kit, ALICE, image.id) == crowd
    await verbs.delete(kit, ALICE, image.id)
    assert await kit.db.read(index.compare) == index.Differences(0, 0, 0)


async def test_of_many_that_change_one_image_at_once_nobody_loses_a_change(kit: Kit) -> None:
    image = await new(kit)
    projects = [f"p{n}" for n in range(12)]

    async def one(project: str) -> None:
        await members.share(kit, ALICE, image.id, project)
        await members.answer(kit, of_project(project), image.id, project, "accepted")
        await tags.add(kit, ALICE, image.id, project)
        await verbs.update(kit, ALICE, image.id, [Change("add", project, "there")], None)
        if project in projects[::2]:
            await members.remove(kit, of_project(project), image.id, project)
            await tags.remove(kit, ALICE, image.id, project)

    await asyncio.gather(*(one(project) for project in projects))
    left = await verbs.show(kit, ALICE, image.id)
    assert {project: entry.status for project, entry in left.members.items()} == dict.fromkeys(projects[1::2], "accepted")
    assert (sorted(left.tags), left.properties) == (sorted(projects[1::2]), dict.fromkeys(projects, "there"))
    assert left.version == 1 + 12 * 4 + 6 * 2
    await check_index(kit)
