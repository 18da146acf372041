"""Quotas on every database: whoever races, no limit is passed, and what was counted is what a recount finds."""

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ikon import quota
from ikon.config import Quota, Trash
from ikon.context import Context
from ikon.db import schema, trash, usage
from ikon.db.engine import Database, make_engine
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.imports import DIRECT, Request
from ikon.model.patch import Change
from ikon.model.quota import Limits, Usage
from ikon.problems import IdentityDown, Problem, QuotaExceeded
from ikon.quota import Quotas
from ikon.service import data, imports, quotas
from ikon.service import images as verbs
from ikon.service import trash as trash_verbs
from tests.contract.test_trash_databases import with_settings
from tests.contract.test_verbs_databases import ADMIN, ALICE, copy, copying, kit_on, new, rows, stream, upload


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


@pytest.fixture
async def sqlite_kit(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(sqlite_url))
    async with kit_on(sqlite_url, tmp_path) as made:
        yield made


async def limit(kit: Kit, **own: int | None) -> None:
    await quotas.limit(kit, ADMIN, "alpha", own)


async def held(kit: Kit, project: str = "alpha") -> Usage:
    """What a project holds, and is said to hold where that is known."""
    said, counted = (await kit.db.read(usage.look, project))[0], await kit.db.read(usage.count, project)
    assert said in (None, counted)
    return counted


async def of_all(*deeds: Awaitable[Any]) -> Counter[str]:
    """How the deeds ended that were done at once: "done", or the problem."""
    ended = await asyncio.gather(*deeds, return_exceptions=True)
    assert all(isinstance(each, Problem) for each in ended if isinstance(each, BaseException)), ended
    return Counter(type(each).__name__ if isinstance(each, Problem) else "done" for each in ended)


class Held:
    """Data of which some has come, and no more comes until all that race have begun or were refused."""

    def __init__(self, racers: int) -> None:
        self._left, self._settled = racers, asyncio.Event()

    async def data(self, size: int) -> AsyncIterator[bytes]:
        yield b"x" * (size // 2)
        self.settled()
        await self._settled.wait()
        yield b"x" * (size - size // 2)

    def settled(self) -> None:
        self._left -= 1
        if not self._left:
            self._settled.set()

    async def racing(self, deed: Awaitable[None]) -> None:
        try:
            await deed
        except Problem:
            self.settled()
            raise


async def test_of_many_who_create_at_once_as_many_succeed_as_there_are_places(kit: Kit) -> None:
    await limit(kit, images=3)

    ended = await of_all(*(new(kit) for _ in range(8)))

    assert ended == {"done": 3, "QuotaExceeded": 5}
    assert (await held(kit)).images == 3


@pytest.mark.parametrize("way", ["upload", "stage"])
async def test_of_many_who_send_data_at_once_as_many_begin_as_there_are_places(kit: Kit, way: str) -> None:
    found = [await new(kit) for _ in range(6)]
    await limit(kit, uploading=2)
    race = Held(6)

    def send(image: Image) -> Awaitable[None]:
        blocks = race.data(1000)
        return upload(kit, image, blocks) if way == "upload" else imports.stage(kit, ALICE, image.id, blocks, size=1000)

    ended = await of_all(*(race.racing(send(image)) for image in found))

    assert ended == {"done": 2, "QuotaExceeded": 4}
    assert (await held(kit)).uploading == (0 if way == "upload" else 2)


@pytest.mark.parametrize("announced", [True, False])
async def test_staged_bytes_that_race_are_never_more_than_allowed(kit: Kit, announced: bool) -> None:
    found = [await new(kit) for _ in range(6)]
    await limit(kit, staged_bytes=2500)
    most = [0]

    async def send(image: Image) -> None:
        async def watched() -> AsyncIterator[bytes]:
            async for block in stream(b"x" * 1000, 250):
                most.append((await kit.db.read(usage.count, "alpha")).staged_bytes)
                yield block

        await imports.stage(kit, ALICE, image.id, watched(), size=1000 if announced else None)

    ended = await of_all(*(send(image) for image in found))

    assert ended["done"] + ended["QuotaExceeded"] == 6
    assert ended["done"] == 2 if announced else ended["done"] <= 2
    assert max(most) <= 2500
    assert (await held(kit)).staged_bytes == 1000 * ended["done"]


async def test_all_that_an_image_goes_through_is_counted_right_at_every_step(kit: Kit) -> None:
    kit = with_settings(kit, trash=Trash(keep_s=3600))
    assert await held(kit) == Usage()
    image = await new(kit)
    assert await held(kit) == Usage(images=1)
    await imports.stage(kit, ALICE, image.id, stream(b"x" * 1000), size=None)
    assert await held(kit) == Usage(staged_bytes=1000, images=1, uploading=1)
    await imports.start(kit, ALICE, image.id, Request(DIRECT))
    assert await held(kit) == Usage(staged_bytes=1000, images=1, uploading=1)
    await verbs.delete(kit, ALICE, image.id)
    assert await held(kit) == Usage()

    image = await new(kit)
    await upload(kit, image, b"x" * 500)
    running = await copying(kit, ADMIN, image.id, "two")
    assert await held(kit) == Usage(bytes=500, images=1, uploading=1)
    await running.left[0].run(kit, running)
    assert await held(kit) == Usage(bytes=1000, images=1)
    await verbs.update(kit, ALICE, image.id, [Change("replace", "os_hidden", True)], None)
    await verbs.deactivate(kit, ALICE, image.id)
    assert await held(kit) == Usage(bytes=1000, images=1)
    await verbs.delete(kit, ALICE, image.id)
    assert await held(kit) == Usage(bytes=1000)
    await trash_verbs.restore(kit, ADMIN, image.id)
    assert await held(kit) == Usage(bytes=1000, images=1)


async def test_an_image_that_is_given_away_takes_its_bytes_along_and_needs_its_place_there(kit: Kit) -> None:
    image = await new(kit)
    await upload(kit, image, b"x" * 500)
    await quotas.limit(kit, ADMIN, "beta", {"bytes": 499})
    given = [Change("replace", "owner", "beta")]

    with pytest.raises(QuotaExceeded):
        await verbs.update(kit, ADMIN, image.id, given, None)
    assert (await held(kit), await held(kit, "beta")) == (Usage(500, 0, 1, 0), Usage())

    await quotas.unlimit(kit, ADMIN, "beta")
    await verbs.update(kit, ADMIN, image.id, given, None)
    assert (await held(kit), await held(kit, "beta")) == (Usage(), Usage(500, 0, 1, 0))


async def test_what_is_nobody_s_is_charged_to_nobody(kit: Kit) -> None:
    """An image without an owner, brought in by a caller without a project."""
    nobody = Context("root", None, None, frozenset(("admin", "member", "reader")))
    image = await new(kit, nobody)
    await data.upload(kit, nobody, image.id, stream(b"x" * 500), store=None, size=None)
    await copy(kit, nobody, image.id, "two")
    await verbs.delete(kit, nobody, image.id)

    assert rows(kit.settings.database, usage.t) == []


async def test_an_image_comes_back_from_the_trash_only_where_it_has_a_place(kit: Kit) -> None:
    kit = with_settings(kit, trash=Trash(keep_s=3600))
    image = await new(kit)
    await upload(kit, image, b"x")
    await limit(kit, images=1)
    await verbs.delete(kit, ALICE, image.id)
    other = await new(kit)

    with pytest.raises(QuotaExceeded):
        await trash_verbs.restore(kit, ADMIN, image.id)
    assert (await kit.db.read(trash.size))[0] == 1
    await verbs.delete(kit, ALICE, other.id)
    await trash_verbs.restore(kit, ADMIN, image.id)

    assert await held(kit) == Usage(bytes=1, images=1)


async def test_a_limit_below_what_is_held_takes_nothing_away_and_lets_nothing_come(kit: Kit) -> None:
    found = [await new(kit) for _ in range(3)]
    await upload(kit, found[0], b"x" * 1000)
    await limit(kit, images=1, bytes=10)

    assert await of_all(new(kit), upload(kit, found[1], b"x"), imports.start(kit, ALICE, found[2].id, web())) == {"QuotaExceeded": 3}
    assert await held(kit) == Usage(bytes=1000, images=3)
    await verbs.delete(kit, ALICE, found[2].id)
    assert (await held(kit)).images == 2


def web() -> Request:
    return Request("web-download", uri="http://93.184.216.34/image")


async def test_what_is_not_known_is_counted_anew_amid_what_goes_on(kit: Kit) -> None:
    async def come_and_go() -> None:
        for _ in range(3):
            image = await new(kit)
            await upload(kit, image, b"x" * 1000)
            await verbs.delete(kit, ALICE, image.id)

    working = asyncio.gather(*(come_and_go() for _ in range(4)))
    while not working.done():
        await kit.db.write(usage.doubt)
        await asyncio.sleep(0.01)
    await working
    await new(kit)

    assert await held(kit) == Usage(images=1)


def test_a_connection_that_is_lost_amid_a_counted_change_is_what_is_said_of_it(sqlite_url: str) -> None:
    with make_engine(sqlite_url).connect() as conn:
        with pytest.raises(ZeroDivisionError), usage.counting(usage.Rules(Limits()))(conn, {}):
            conn.execute(sa.text("SELECT 1"))
            conn.invalidate()
            _ = 1 / 0
        conn.rollback()


async def test_a_list_of_projects_counts_what_is_not_known_once(sqlite_kit: Kit, statements: list[str]) -> None:
    kit = sqlite_kit
    await new(kit)
    await kit.db.write(usage.doubt)

    first = await quotas.browse(kit, ADMIN, "")
    statements.clear()

    assert await quotas.browse(kit, ADMIN, "") == first
    assert [(quota.project, quota.usage) for quota in first] == [("alpha", Usage(images=1))]
    assert len([each for each in statements if each.startswith("SELECT")]) == 1


@pytest.fixture
def statements() -> Iterator[list[str]]:
    found: list[str] = []

    def executed(conn: Any, cursor: Any, statement: str, *more: Any) -> None:
        found.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", executed)
    yield found
    sa.event.remove(sa.Engine, "before_cursor_execute", executed)


@pytest.mark.parametrize("kept", [True, False])
async def test_where_no_quotas_are_kept_none_costs_a_statement(sqlite_url: str, tmp_path: Path, statements: list[str], kept: bool) -> None:
    schema.upgrade(make_engine(sqlite_url))
    async with kit_on(sqlite_url, tmp_path, quota=10_000_000 if kept else 0) as kit:
        statements.clear()
        image = await new(kit)
        await upload(kit, image, b"x")
        await verbs.delete(kit, ALICE, image.id)

    assert any("usage" in statement for statement in statements) == kept


# Limits that others set


class Elsewhere:
    """Limits in somebody else's hands, as [quota] from_keystone has it: here they are at hand, and can be away."""

    def __init__(self, **limits: int) -> None:
        self.limits, self.asked, self.away = limits, 0, False

    async def of(self, project: str) -> dict[str, int]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.away:
            raise IdentityDown(retry_after_s=5)
        return {"image_size_total": -1, "image_stage_total": -1, "image_count_uploading": -1} | self.limits


@contextlib.asynccontextmanager
async def limited_by(kit: Kit, elsewhere: Elsewhere) -> AsyncIterator[Kit]:
    """The same process, with limits from elsewhere."""
    made = Quotas(Quota(from_keystone=True), elsewhere.of)
    db = Database(kit.settings.database, rehearse=True, around=made.around())
    try:
        yield dataclasses.replace(kit, db=db, quotas=made)
    finally:
        await db.close()


async def test_limits_of_elsewhere_are_asked_for_once_by_all_who_need_them(sqlite_kit: Kit) -> None:
    elsewhere = Elsewhere(image_count_total=20)
    async with limited_by(sqlite_kit, elsewhere) as kit:
        assert await of_all(*(new(kit) for _ in range(12))) == {"done": 12}

        assert elsewhere.asked == 1


async def test_a_raised_limit_counts_at_once_and_a_lowered_one_soon(sqlite_kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Elsewhere(image_count_total=1)
    async with limited_by(sqlite_kit, elsewhere) as kit:
        await new(kit)
        assert await of_all(new(kit)) == {"QuotaExceeded": 1}

        elsewhere.limits["image_count_total"] = 3
        assert await of_all(new(kit)) == {"done": 1}
        elsewhere.limits["image_count_total"] = 2
        monkeypatch.setattr(quota, "FRESH_S", 0.0)  # as if it had gone by
        assert await of_all(new(kit)) == {"QuotaExceeded": 1}


async def test_while_limits_cannot_be_asked_for_nothing_grows_and_all_else_goes_on(sqlite_kit: Kit) -> None:
    elsewhere = Elsewhere(image_count_total=5)
    elsewhere.away = True
    image = await new(sqlite_kit)
    async with limited_by(sqlite_kit, elsewhere) as kit:
        with pytest.raises(IdentityDown) as refused:
            await new(kit)
        await verbs.update(kit, ALICE, image.id, [Change("add", "key", "value")], None)
        await verbs.delete(kit, ALICE, image.id)

        assert refused.value.headers == {"Retry-After": "5"}
        assert await held(kit) == Usage()


async def test_a_limit_that_is_not_registered_is_zero(sqlite_kit: Kit) -> None:
    async with limited_by(sqlite_kit, Elsewhere()) as kit:
        assert await of_all(new(kit)) == {"QuotaExceeded": 1}
