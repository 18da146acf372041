"""The trash, and what runs by itself, on every database: whole images come back, one of two racers wins, bytes go and nothing else does."""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.config import Jobs, Quota, Trash
from ikon.context import Context
from ikon.db import copies, images, index, instances, jobs, runs, schema, tables, trash, usage
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.job import New
from ikon.model.listing import parse
from ikon.model.periodic import Found
from ikon.model.quota import OwnLimits, Usage
from ikon.model.trash import marker, place
from ikon.periodic import reaper, updater
from ikon.periodic.base import Process
from ikon.problems import Conflict, Forbidden, ImageExists, ImageNotFound, NotFound, Problem, StagedTooLong, StoreDown
from ikon.queue import new_id
from ikon.quota import Quotas
from ikon.service import images as verbs
from ikon.service import imports, members, tags
from ikon.service import trash as trash_verbs
from ikon.transfer import intake, rests
from tests.contract.test_verbs_databases import ADMIN, ALICE, copy, kit_on, new, read, rows, stream, upload
from tests.faults.world import noise

DATA = noise(2_500_000)


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    """A process that keeps deleted images for an hour."""
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield with_settings(made, trash=Trash(keep_s=3600))


def with_settings(kit: Kit, **changes: Any) -> Kit:
    return dataclasses.replace(kit, settings=msgspec.structs.replace(kit.settings, **changes))


async def rich(kit: Kit) -> Image:
    """An image with one of everything, in two stores, deactivated."""
    image = await new(kit, name="rich", visibility="shared", key="value", tags=["one"])
    await members.share(kit, ALICE, image.id, "beta")
    await members.answer(kit, Context("bob", "beta", None, ALICE.roles), image.id, "beta", "accepted")
    await tags.add(kit, ALICE, image.id, "two")
    await upload(kit, image, DATA)
    await copy(kit, ADMIN, image.id, "two")
    await verbs.deactivate(kit, ALICE, image.id)
    return await verbs.show(kit, ALICE, image.id)


def without_versions(image: Image) -> Image:
    return msgspec.structs.replace(image, version=0, updated=0)


def files(kit: Kit) -> list[str]:
    """What lies in the stores."""
    return sorted(path.name for name in ("one", "two") for path in Path(kit.settings.stores[name]["path"]).iterdir())


async def listed(kit: Kit, who: Context) -> list[str]:
    return [image.id for image in await verbs.browse(kit, who, parse([("os_hidden", "false")], 25, 25))]


async def test_a_restored_image_is_the_one_that_was_deleted(kit: Kit, database_url: str) -> None:
    image = await rich(kit)
    beta = Context("bob", "beta", None, ALICE.roles)
    before = await kit.db.read(index.compare)

    await verbs.delete(kit, ALICE, image.id)

    for who in (ALICE, beta, ADMIN):
        with pytest.raises(ImageNotFound):
            await verbs.show(kit, who, image.id)
        assert await listed(kit, who) == []
    with pytest.raises(ImageExists):
        await new(kit, id=image.id)
    assert rows(database_url, tables.terms) == rows(database_url, tables.sorts) == []
    assert len(files(kit)) == 2
    assert (await kit.db.read(usage.count, "alpha")).bytes == 2 * len(DATA)

    restored = await trash_verbs.restore(kit, ADMIN, image.id)

    assert without_versions(restored) == without_versions(image) == without_versions(await verbs.show(kit, ALICE, image.id))
    assert restored.version > image.version + 1
    assert await kit.db.read(index.compare) == before
    assert await listed(kit, beta) == [image.id]
    await verbs.reactivate(kit, ALICE, image.id)
    for store in ("one", "two"):
        assert await read(kit, image, [store]) == DATA
    assert rows(database_url, tables.trash) == []
    kinds = [row[4] for row in rows(database_url, tables.events)]
    assert kinds[-3:] == ["image.delete", "image.restore", "image.update"]


async def test_a_purged_image_is_gone_for_ever(kit: Kit, database_url: str) -> None:
    image = await rich(kit)
    await verbs.delete(kit, ALICE, image.id)

    await trash_verbs.purge(kit, ADMIN, image.id)

    assert (
        files(kit)
        == rows(database_url, tables.copies)
        == rows(database_url, tables.block_digests)
        == rows(database_url, tables.trash)
        == []
    )
    assert await kit.db.read(usage.look, "alpha") == (Usage(), OwnLimits())
    for verb in (trash_verbs.purge, trash_verbs.restore):
        with pytest.raises(NotFound):
            await verb(kit, ADMIN, image.id)
    with pytest.raises(ImageExists):
        await new(kit, id=image.id)


async def test_the_digests_of_a_trashed_image_outlive_a_copy_that_goes(kit: Kit) -> None:
    image = await rich(kit)
    await kit.db.write(begin_a_copy, image)

    await verbs.delete(kit, ALICE, image.id)
    assert (await reaper.run_once(kit))["bytes"] == Found(1, 1)
    await trash_verbs.restore(kit, ADMIN, image.id)

    await verbs.reactivate(kit, ALICE, image.id)
    assert await read(kit, image, []) == DATA


def begin_a_copy(conn: Connection, image: Image) -> None:
    """A copy is being written by a process that is no more."""
    [ready, _] = copies.of_image(conn, image.id)
    new = str(uuid.uuid4())
    copies.intend(conn, msgspec.structs.replace(ready, id=new, url=ready.url.replace(ready.id, new), state="writing", instance="ghost"))


@pytest.mark.parametrize("status", ["queued", "uploading"])
async def test_what_has_no_data_of_its_own_is_not_kept(kit: Kit, database_url: str, status: str) -> None:
    image = await new(kit)
    if status == "uploading":
        await imports.stage(kit, ALICE, image.id, stream(DATA), size=None)
    assert (await verbs.show(kit, ALICE, image.id)).status == status

    await verbs.delete(kit, ALICE, image.id)

    assert rows(database_url, tables.trash) == rows(database_url, tables.copies) == []


async def test_an_image_of_which_no_copy_can_be_read_is_not_kept(kit: Kit, database_url: str) -> None:
    """As one whose only location was refused: nobody could have it back."""
    image = await new(kit)
    await upload(kit, image, DATA)
    await kit.db.write(spoil)

    await verbs.delete(kit, ALICE, image.id)

    assert rows(database_url, tables.trash) == rows(database_url, tables.copies) == []


def spoil(conn: Connection) -> None:
    conn.execute(sa.update(tables.copies).values(state="bad"))


async def test_an_image_whose_bytes_are_gone_is_not_restored(kit: Kit) -> None:
    image = await rich(kit)
    await verbs.delete(kit, ALICE, image.id)
    first, second = (Path(kit.settings.stores[name]["path"]) for name in ("one", "two"))

    for path in first.iterdir():
        path.unlink()
    assert (await trash_verbs.restore(kit, ADMIN, image.id)).stores == ["two"]
    await verbs.delete(kit, ALICE, image.id)
    for path in second.iterdir():
        path.write_bytes(b"short")

    with pytest.raises(Conflict, match="gone from every store"):
        await trash_verbs.restore(kit, ADMIN, image.id)
    assert [trashed.image.id for trashed in await trash_verbs.browse(kit, ADMIN, None)] == [image.id]


async def test_of_those_who_restore_purge_and_delete_at_once_one_wins(kit: Kit, database_url: str) -> None:
    for _ in range(6):
        image = await rich(kit)
        await verbs.delete(kit, ALICE, image.id)
        deeds = [
            *(trash_verbs.restore(kit, ADMIN, image.id) for _ in range(3)),
            *(trash_verbs.purge(kit, ADMIN, image.id) for _ in range(3)),
        ]

        outcomes = await asyncio.gather(*deeds, return_exceptions=True)

        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all(isinstance(failure, NotFound | Conflict) for failure in failed), failed
        assert len(failed) == len(deeds) - 1
        if isinstance(outcomes[0], Image) or isinstance(outcomes[1], Image) or isinstance(outcomes[2], Image):
            await verbs.reactivate(kit, ALICE, image.id)
            assert await read(kit, image, []) == DATA
            deletions = await asyncio.gather(
                *(verbs.delete(kit, ALICE, image.id) for _ in range(3)), trash_verbs.restore(kit, ADMIN, image.id), return_exceptions=True
            )
            assert any(outcome is None for outcome in deletions)
            back = isinstance(deletions[-1], Image)
            assert len(rows(database_url, tables.images)) + len(rows(database_url, tables.trash)) == 1
            if back and rows(database_url, tables.images):
                await verbs.delete(kit, ALICE, image.id)
            await trash_verbs.purge(kit, ADMIN, image.id)
        assert rows(database_url, tables.images) == rows(database_url, tables.trash) == rows(database_url, tables.terms) == []
        assert files(kit) == []


async def test_an_image_comes_back_even_if_another_has_its_microsecond(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    image = await rich(kit)
    await verbs.delete(kit, ALICE, image.id)
    monkeypatch.setattr(images, "now_us", lambda: image.k)
    other = await new(kit)

    restored = await trash_verbs.restore(kit, ADMIN, image.id)

    assert (other.k, restored.k) == (image.k, image.k + 1)
    assert sorted(await listed(kit, ALICE)) == sorted([image.id, other.id])


async def test_the_reaper_purges_what_has_had_its_time_and_nothing_else(kit: Kit, database_url: str) -> None:
    early, late = await rich(kit), await rich(kit)
    for image in (early, late):
        await verbs.delete(kit, ALICE, image.id)
    await kit.db.write(set_due, early.id)

    first, second = await reaper.run_once(kit), await reaper.run_once(kit)

    assert (first["trash"], first["bytes"], second["trash"]) == (Found(1, 1), Found(2, 2), Found(0, 0))
    assert [trashed.image.id for trashed in await trash_verbs.browse(kit, ADMIN, None)] == [late.id]
    assert len(files(kit)) == len(rows(database_url, tables.copies)) == 2


def set_due(conn: Connection, image_id: str) -> None:
    conn.execute(sa.update(tables.trash).where(tables.trash.c.id == image_id).values(due=1))


async def test_the_trash_is_listed_page_by_page_and_emptied_at_once(kit: Kit) -> None:
    made = [await new(kit) for _ in range(7)]
    for image in made:
        await upload(kit, image, b"x")
        await verbs.delete(kit, ALICE, image.id)
    kit = with_settings(kit, limits=msgspec.structs.replace(kit.settings.limits, page_max=3))

    found, after = [], None
    while page := await trash_verbs.browse(kit, ADMIN, after):
        found += page
        after = place(marker(page[-1]))

    assert sorted(trashed.image.id for trashed in found) == sorted(image.id for image in made)
    assert [trashed.due for trashed in found] == sorted((trashed.due for trashed in found), reverse=True)
    assert await kit.db.read(trash.size) == (7, 7)
    assert await trash_verbs.purge_all(kit, ADMIN) == 7
    assert (await reaper.run_once(kit))["bytes"] == Found(7, 7)
    assert files(kit) == []


async def test_the_trash_is_the_operators_alone(kit: Kit) -> None:
    image = await rich(kit)
    await verbs.delete(kit, ALICE, image.id)

    for asked in (
        trash_verbs.browse(kit, ALICE, None),
        trash_verbs.restore(kit, ALICE, image.id),
        trash_verbs.purge(kit, ALICE, image.id),
        trash_verbs.purge_all(kit, ALICE),
    ):
        with pytest.raises(Forbidden):
            await asked


# Bytes that wait for their store


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_store_that_is_down_is_asked_now_and_then_and_others_go_on(kit: Kit, monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    kit = with_settings(kit, trash=Trash())
    monkeypatch.setattr(intake, "INLINE_S", 1.0)
    monkeypatch.setattr(rests, "REST_S", (600.0, 600.0))  # longer than the rest of this takes on any machine
    monkeypatch.setattr(intake, "BACK_OFF_S", (600, 600))
    asked = []
    delete = kit.stores["one"].delete

    async def down(url: str) -> None:
        asked.append(url)
        await asyncio.sleep(30 * hangs)
        raise StoreDown("Store one is away")

    monkeypatch.setattr(kit.stores["one"], "delete", down)
    for store in ("one", "two"):
        for _ in range(20):
            image = await new(kit)
            await upload(kit, image, b"x", store=store)
            await verbs.delete(kit, ALICE, image.id)
    for _ in range(3):
        await reaper.run_once(kit)

    assert len(asked) == 1
    assert await kit.db.read(copies.waiting) == {"one": 20}

    monkeypatch.setattr(kit.stores["one"], "delete", delete)
    monkeypatch.setattr(kit.intake.rests, "_until", {})
    assert (await reaper.run_once(kit))["bytes"] == Found(19, 19)
    assert await kit.db.read(copies.waiting) == {"one": 1}  # it waits for its own time, having been tried
    await kit.db.write(make_due)
    assert (await reaper.run_once(kit))["bytes"] == Found(1, 1)
    assert files(kit) == []


def make_due(conn: Connection) -> None:
    conn.execute(sa.update(tables.copies).values(not_before=0))


async def test_copies_of_a_store_that_is_configured_no_more_hold_nobody_up(kit: Kit) -> None:
    kit = with_settings(kit, trash=Trash())
    image = await new(kit)
    await upload(kit, image, b"x")
    [copy] = await kit.db.read(copies.of_image, image.id)
    for n in range(reaper.BATCH + 1):
        gone = msgspec.structs.replace(copy, id=f"{n:036}", image_id="none", store="former", state="deleting")
        await kit.db.write(copies.intend, gone)
    await kit.db.write(copies.condemn, copy)

    assert (await reaper.run_once(kit))["bytes"] == Found(1, 1)


# Staging


async def staged(kit: Kit) -> Image:
    image = await new(kit)
    await imports.stage(kit, ALICE, image.id, stream(DATA), size=None)
    return image


def staged_files(kit: Kit) -> list[Path]:
    return sorted(Path(kit.settings.staging.path).iterdir())


async def test_staged_data_that_no_import_will_use_goes(kit: Kit) -> None:
    waiting, orphan, done = await staged(kit), await staged(kit), await staged(kit)
    await kit.db.write(forget_image, orphan.id)
    await kit.db.write(set_status, done.id, "active")

    assert (await reaper.run_once(kit))["staging"] == Found(2, 2)

    assert [path.name.partition(".")[0] for path in staged_files(kit)] == [waiting.id]
    assert (await verbs.show(kit, ALICE, waiting.id)).status == "uploading"


def forget_image(conn: Connection, image_id: str) -> None:
    image = images.lock(conn, image_id)
    assert image
    images.delete(conn, image)


def set_status(conn: Connection, image_id: str, status: str) -> None:
    conn.execute(sa.update(tables.images).where(tables.images.c.id == image_id).values(status=status))


async def test_staged_data_that_waited_too_long_goes_and_its_image_is_queued_again(kit: Kit) -> None:
    image = await staged(kit)
    await kit.db.write(make_old)

    assert (await reaper.run_once(kit))["staging"] == Found(1, 1)

    after = await verbs.show(kit, ALICE, image.id)
    assert (after.status, after.size, after.reason) == ("queued", None, str(StagedTooLong()))
    assert staged_files(kit) == []
    await upload(kit, image, DATA)


def make_old(conn: Connection) -> None:
    conn.execute(sa.update(tables.copies).values(verified_at=1))


async def test_a_staged_file_without_a_row_goes_when_it_has_none_a_day_later(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    named = await staged(kit)
    stray = Path(kit.settings.staging.path) / "0c6a8f0e-64f8-4f4c-9a04-0d1a2b3c4d5e.0c6a8f0e-64f8-4f4c-9a04-0d1a2b3c4d5f"
    stray.write_bytes(b"whose am I?")
    other = stray.with_name("notes.txt")
    other.write_text("no copy's name")

    for _ in range(3):
        await reaper.run_once(kit)
    assert stray in staged_files(kit)

    await kit.db.write(make_due)
    await reaper.run_once(kit)
    assert [path.name.partition(".")[0] for path in staged_files(kit)] == sorted([named.id, "notes"])


# Jobs, instances, usage


async def test_jobs_that_ended_are_shown_for_their_time(kit: Kit) -> None:
    kit = with_settings(kit, jobs=Jobs(keep_s=60))
    names = [new_id() for _ in range(3)]
    for job_id in names:
        await kit.db.write(jobs.enqueue, New(id=job_id, kind="note", image_id=None, input={}))
    for job_id in names[:2]:
        assert await kit.db.write(jobs.cancel, job_id) == "cancelled"
    await kit.db.write(end_long_ago, names[0])

    assert (await reaper.run_once(kit))["jobs"] == Found(1, 1)
    assert [await kit.db.read(jobs.get, job_id) is not None for job_id in names] == [False, True, True]


def end_long_ago(conn: Connection, job_id: str) -> None:
    finished = tables.jobs.c.finished - 61_000
    conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(finished=finished))


async def test_instances_that_went_without_a_word_are_forgotten_once_they_own_nothing(kit: Kit) -> None:
    for name in ("silent", "owner", "worker", "paused"):
        await kit.db.write(instances.enlist, name, "elsewhere", alone=False)
    assert await kit.db.write(instances.take_lease, "role", "silent")
    await kit.db.write(end_leases, ["silent", "owner", "worker"], 1)
    await kit.db.write(end_leases, ["paused"], None)
    await kit.db.write(give, "owner", "worker")

    assert await kit.db.write(instances.forget, reaper.SILENT_MS, 10) == 2  # itself, and its role
    assert sorted(await kit.db.read(instances.on_node, "elsewhere")) == ["owner", "paused", "worker"]
    assert await kit.db.write(instances.forget, reaper.SILENT_MS, 10) == 0


def end_leases(conn: Connection, names: list[str], until: int | None) -> None:
    t = tables.instances
    conn.execute(sa.update(t).where(t.c.id.in_(names)).values(lease_until=t.c.lease_until - 60_000 if until is None else until))


def give(conn: Connection, owner: str, worker: str) -> None:
    """One writes a copy, the other runs a job."""
    copies.intend(conn, copies.Copy("c" * 36, "i", "far", "elsewhere", "u", "writing", owner, None, 0, None, 0, None, 0, 0))
    jobs.enqueue(conn, New(id="job", kind="note", image_id=None, input={}))
    conn.execute(sa.update(tables.jobs).values(state="running", instance=worker))


async def test_the_updater_finds_usage_that_is_wrong_and_mends_it(kit: Kit, database_url: str) -> None:
    image = await new(kit)
    await upload(kit, image, DATA)
    assert await updater.run_once(kit) == {"usage": Found(1, 0)}
    await kit.db.write(distort)

    assert await updater.run_once(kit) == {"usage": Found(1, 1)}
    assert rows(database_url, tables.usage) == [("alpha", len(DATA), 0, 1, 0, None, None, None, None)]
    await kit.db.write(usage.doubt)
    assert await updater.run_once(kit) == {"usage": Found(1, 0)}  # what is not known is not wrong
    assert rows(database_url, tables.usage) == [("alpha", len(DATA), 0, 1, 0, None, None, None, None)]
    assert await updater.run_once(dataclasses.replace(kit, quotas=Quotas(Quota()))) == {"usage": Found(0, 0)}


def distort(conn: Connection) -> None:
    conn.execute(sa.update(tables.usage).values(bytes=17))


async def test_a_recount_amid_uploads_and_deletions_finds_nothing_wrong(kit: Kit) -> None:
    kit = with_settings(kit, trash=Trash())

    async def come_and_go() -> None:
        for _ in range(4):
            image = await new(kit)
            await upload(kit, image, b"x" * 1000)
            await verbs.delete(kit, ALICE, image.id)

    working = asyncio.gather(*(come_and_go() for _ in range(4)))
    drifts = []
    while not working.done():
        drifts.append((await kit.db.write(usage.mend, "alpha"))[1])
        await asyncio.sleep(0)
    await working
    assert len(drifts) > 1
    assert set(drifts) == {Usage()}


# What is told of runs


async def test_the_last_run_is_kept_whether_it_went_well_or_not(kit: Kit) -> None:
    outcomes: list[Problem | dict[str, Found]] = [{"things": Found(3, 2)}, StoreDown("the store is away"), {"things": Found(1, 0)}]

    async def work(_: Kit) -> dict[str, Found]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    process = Process("porter", work, 1, per_node=True, at_once=True)
    first = await process.run_once(kit)
    assert (first.name, first.parts, first.failed) == ("porter@here", {"things": Found(3, 2)}, None)
    assert await kit.db.read(runs.last) == [first]
    with pytest.raises(StoreDown):
        await process.run_once(kit)
    [failed] = await kit.db.read(runs.last)
    assert (failed.failed, failed.parts) == ("the store is away", {})
    assert (await process.run_once(kit)).failed is None

    assert await kit.db.write(runs.forget, 1_000_000) == 0
    assert await kit.db.write(runs.forget, -1_000_000) == 1


async def test_one_process_of_the_cluster_runs_what_needs_one_runner(kit: Kit) -> None:
    count = 0

    async def work(_: Kit) -> dict[str, Found]:
        nonlocal count
        count += 1
        return {}

    await kit.db.write(instances.enlist, "other", "elsewhere", alone=False)
    assert await kit.db.write(instances.take_lease, "porter", "other")
    waits, at_once = Process("porter", work, 1, per_node=False, at_once=False), Process("porter", work, 1, per_node=False, at_once=True)
    await waits._turn(kit)
    assert count == 0
    await at_once._turn(kit)
    await at_once._turn(kit)
    assert count == 1
    await kit.db.write(instances.retire, "other")
    await waits._turn(kit)
    assert count == 2
