"""Timelines, and jobs that are ended and begun again, mean the same on every database; each write is rehearsed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import images, instances, jobs, schema, tables
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.imports import DIRECT, Request
from ikon.model.job import Limits
from ikon.problems import Conflict, Forbidden, Interrupted, LeaseLost
from ikon.service import images as verbs
from ikon.service import imports, timeline
from ikon.service import jobs as jobs_verbs
from ikon.worker.handlers.imports import KINDS
from ikon.worker.loop import Worker
from tests.contract.test_verbs_databases import ADMIN, ALICE, kit_on, new, stream
from tests.faults.world import noise

DATA = noise(300_000)


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


async def begun(kit: Kit) -> tuple[Image, str]:
    """An image, and the job of its import, which nobody works on yet."""
    image = await new(kit)
    await imports.stage(kit, ALICE, image.id, stream(DATA), size=None)
    await imports.start(kit, ALICE, image.id, Request(DIRECT, ("one",)))
    return image, (await kit.db.read(jobs.of_image, image.id))[0].id


async def work(kit: Kit, job_id: str, *states: str) -> None:
    """Have a worker at it until the job is in one of these states."""
    worker = Worker(kit, KINDS, 2, Limits())
    task = asyncio.create_task(worker.run())
    kit.queue.ring()
    async with asyncio.timeout(20):
        while (await jobs_verbs.show(kit, ADMIN, job_id)).job.state not in states:
            await asyncio.sleep(0.02)
    worker.stop()
    await task


async def causes(kit: Kit, image: Image) -> list[str]:
    told = await timeline.show(kit, ADMIN, image.id, for_tenant=False)
    return [entry.cause for entry in (*told.entries, told.now) if entry.cause]


async def test_a_step_that_fails_is_told_and_its_job_can_be_ended_and_begun_anew(kit: Kit, tmp_path: Path) -> None:
    image, job_id = await begun(kit)
    (tmp_path / "one").rename(tmp_path / "away")
    await work(kit, job_id, "waiting")
    assert all("A store is gone" in cause for cause in await causes(kit, image))

    seen = await jobs_verbs.cancel(kit, ADMIN, job_id)
    assert (seen.job.state, (await verbs.show(kit, ALICE, image.id)).status) == ("cancelled", "uploading")
    assert (await causes(kit, image))[-1] == "It was cancelled"
    (tmp_path / "away").rename(tmp_path / "one")
    await imports.start(kit, ALICE, image.id, Request(DIRECT, ("one",)))
    await work(kit, (await kit.db.read(jobs.of_image, image.id))[-1].id, "done")
    assert (await timeline.show(kit, ALICE, image.id, for_tenant=False)).now.what == "it is active"


async def test_a_failed_job_and_its_image_are_put_back_together(kit: Kit) -> None:
    image, job_id = await begun(kit)
    await kit.db.write(wear_out, job_id)
    await work(kit, job_id, "failed")
    assert "again and again" in (await causes(kit, image))[-1]

    results = await asyncio.gather(*(jobs_verbs.retry(kit, ADMIN, job_id) for _ in range(4)), return_exceptions=True)

    assert sorted(isinstance(result, Conflict) for result in results) == [False, True, True, True]
    current = await verbs.show(kit, ALICE, image.id)
    assert (current.status, current.importing.job, current.importing.to) == ("importing", job_id, ["one"])
    await work(kit, job_id, "done")
    assert (await verbs.show(kit, ALICE, image.id)).status == "active"
    with pytest.raises(Forbidden):
        await jobs_verbs.retry(kit, ALICE, job_id)


def wear_out(conn: Connection, job_id: str) -> None:
    conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(attempt=50))


@pytest.mark.parametrize("known", [True, False], ids=["silent", "gone"])
async def test_a_process_that_is_lost_is_told_with_what_is_known_of_it(kit: Kit, known: bool) -> None:
    image, job_id = await begun(kit)
    await kit.db.write(taken_by_a_ghost, job_id, known=known)
    assert (await jobs_verbs.show(kit, ADMIN, job_id)).owner == ("silent" if known else "gone")
    assert "has ended, or is silent" in (await causes(kit, image))[-1]

    await kit.db.write(jobs.sweep, 10, dead=True)

    words = "fell silent" if known else "killed, crashed"
    assert [words in cause for cause in await causes(kit, image)] == [True]
    why = await kit.db.read(instances.why_gone, "ghost", "do it again")
    assert isinstance(why, LeaseLost if known else Interrupted)
    assert str(why).endswith("; do it again")


def taken_by_a_ghost(conn: Connection, job_id: str, *, known: bool) -> None:
    if known:
        conn.execute(sa.insert(tables.instances).values(id="ghost", node="there", lease_until=5, started=1))
    conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(state="running", instance="ghost", attempt=1))


async def test_a_job_whose_node_has_no_server_waits_and_says_so(kit: Kit) -> None:
    image, job_id = await begun(kit)
    assert await causes(kit, image) == []

    await kit.db.write(moved_away, job_id)

    assert await causes(kit, image) == ["Its data lies on node far-away, on which no server runs"]


def moved_away(conn: Connection, job_id: str) -> None:
    conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(queue="any@far-away"))


async def test_what_befalls_a_job_of_an_image_that_is_gone_is_recorded_with_it(kit: Kit) -> None:
    image, job_id = await begun(kit)
    await kit.db.write(taken_by_a_ghost, job_id, known=False)
    await verbs.delete(kit, ALICE, image.id)
    await kit.db.write(jobs.sweep, 10, dead=True)

    assert await kit.db.read(images.get, image.id) is None
    assert len(await causes(kit, image)) == 3  # the deletion, the process, and that it is deleted
