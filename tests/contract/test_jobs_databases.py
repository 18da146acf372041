"""The job engine on every database: fairness, limits, fences, takeover, cancellation and retries, each write rehearsed."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import instances, jobs, schema, tables
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model import job as model
from ikon.model.job import Job, Limits, New
from ikon.problems import BadValue, Problem, RoomPromised, StoreDown
from ikon.queue import new_id
from ikon.steps.base import Change, Step, Work
from ikon.worker import loop
from ikon.worker.kinds import Kind
from ikon.worker.loop import Worker
from tests.contract.test_verbs_databases import kit_on
from tests.faults.proxy import Proxy
from tests.services.servers import Server

NONE = Limits()


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


def wanted(project: str = "", store: str = "", **more: Any) -> New:
    return New(id=new_id(), kind="note", image_id=None, input={"x": 1}, project=project, store=store, **more)


async def claim(kit: Kit, limits: Limits = NONE, held: Sequence[str] = ()) -> Job | None:
    return await kit.db.write(jobs.claim, kit.lease.id, [model.ANY], limits, held, random.Random(1))


async def test_a_claim_is_fair_between_projects_and_looks_at_priority_first(kit: Kit) -> None:
    for _ in range(6):
        await kit.db.write(jobs.enqueue, wanted("big"))
    for _ in range(2):
        await kit.db.write(jobs.enqueue, wanted("small"))
    await kit.db.write(jobs.enqueue, wanted("late", priority=model.USER))

    order = [(await claim(kit)).project for _ in range(9)]  # type: ignore[union-attr]

    assert order[0] == "late"
    assert sorted(order[1:5]) == ["big", "big", "small", "small"]
    assert order[5:] == ["big"] * 4
    assert await claim(kit) is None


async def test_no_more_jobs_run_than_a_project_or_a_store_may_have(kit: Kit) -> None:
    for project, store in (("a", "one"), ("a", "two"), ("b", "one"), ("b", "two"), ("c", "two")):
        await kit.db.write(jobs.enqueue, wanted(project, store))
    limits = Limits(project=1, store=2)

    found = [await claim(kit, limits) for _ in range(6)]

    running = [(job.project, job.store) for job in found if job]
    assert sorted(project for project, _ in running) == ["a", "b", "c"]
    assert all([store for _, store in running].count(name) <= 2 for name in ("one", "two"))


async def test_a_claim_by_a_process_without_a_lease_takes_nothing(kit: Kit) -> None:
    await kit.db.write(jobs.enqueue, wanted())
    assert await kit.db.write(jobs.claim, "nobody", [model.ANY], NONE, [], random.Random(1)) is None
    assert await claim(kit) is not None


async def test_a_job_is_enqueued_once_however_often_its_insert_is_repeated(kit: Kit) -> None:
    new = wanted()
    assert await kit.db.write(jobs.enqueue, new)
    assert not await kit.db.write(jobs.enqueue, new)


async def test_a_late_attempt_changes_nothing(kit: Kit) -> None:
    await kit.db.write(jobs.enqueue, wanted())
    first = await claim(kit)
    assert first
    await kit.db.write(dead, kit.lease.id)
    assert await kit.db.write(jobs.sweep, 10, dead=True) == [model.ANY]
    await kit.db.write(instances.enlist, kit.lease.id, "here", alone=False)
    second = await claim(kit)
    assert second
    assert (first.attempt, second.attempt) == (1, 2)

    assert await kit.db.write(jobs.lock, first) is None
    assert not await kit.db.write(jobs.finish, first, "done")
    assert not await kit.db.write(jobs.progress, first, 5, 10)
    assert not await kit.db.write(jobs.put_off, first, StoreDown("late"), 1.0)
    assert not await kit.db.write(jobs.hand_back, first)

    assert await kit.db.write(jobs.finish, second, "done")


def dead(conn: Connection, instance: str) -> None:
    instances.retire(conn, instance)


class Note:
    """A step that writes an event row in its fenced transaction, and fails as it is told to."""

    def __init__(self, name: str, failures: list[BaseException], wait_s: float = 0) -> None:
        self.name, self._failures, self._wait_s = name, failures, wait_s
        self.ran = 0

    async def run(self, kit: Kit, work: Work) -> None:
        self.ran += 1
        await asyncio.sleep(self._wait_s)
        if self._failures:
            raise self._failures.pop(0)
        await work.end(self._change())

    def _change(self) -> Change:
        def change(conn: Connection, job: Job) -> dict[str, Any]:
            conn.execute(sa.insert(tables.events).values(image_id=job.id, version=0, at=0, kind=self.name))
            return {self.name: job.attempt}

        return change


class Notes:
    """A kind of job whose giving up is an event row too."""

    def __init__(self, *steps: Note) -> None:
        self._steps = steps

    def steps(self, job: Job) -> Sequence[Step]:
        return self._steps

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        conn.execute(sa.insert(tables.events).values(image_id=job.id, version=0, at=0, kind="gave up", detail=str(why)))


def notes(conn: Connection, job_id: str) -> list[str]:
    query = sa.select(tables.events.c.kind).where(tables.events.c.image_id == job_id).order_by(tables.events.c.n)
    return list(conn.execute(query).scalars())


@contextlib.asynccontextmanager
async def working(kit: Kit, kind: Kind) -> AsyncIterator[Worker]:
    worker = Worker(kit, {"note": kind}, 4, NONE)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(task, 10)


async def settled(kit: Kit, worker: Worker, job_id: str, *states: str) -> Job:
    async with asyncio.timeout(20):
        while True:
            await worker.heartbeat()
            job = await kit.db.read(jobs.get, job_id)
            assert job
            if job.state in states:
                return job
            kit.queue.ring()
            await asyncio.sleep(0.02)


async def put(kit: Kit, new: New) -> str:
    await kit.db.write(jobs.enqueue, new)
    kit.queue.ring()
    return new.id


async def test_steps_run_in_order_and_end_with_what_they_change(kit: Kit) -> None:
    async with working(kit, Notes(Note("first", []), Note("second", []))) as worker:
        job = await settled(kit, worker, await put(kit, wanted()), "done")
    assert job.checkpoint == {"first": 1, "second": 1}
    assert await kit.db.read(notes, job.id) == ["first", "second"]


async def test_what_may_go_better_later_is_tried_again_from_the_step_that_failed(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "RETRY_S", (0.05, 0.1))
    first, second = Note("first", []), Note("second", [StoreDown("the store is away"), StoreDown("still")])
    async with working(kit, Notes(first, second)) as worker:
        job_id = await put(kit, wanted())
        job = await settled(kit, worker, job_id, "done")
    assert (first.ran, second.ran, job.failures, job.attempt) == (1, 3, 2, 3)


async def test_what_cannot_go_better_ends_the_job_with_its_reason(kit: Kit) -> None:
    first, second, third = Note("first", []), Note("second", [BadValue("this is not an image")]), Note("third", [])
    async with working(kit, Notes(first, second, third)) as worker:
        job = await settled(kit, worker, await put(kit, wanted()), "failed")
    assert job.reason == "this is not an image"
    assert (first.ran, second.ran, third.ran) == (1, 1, 0)
    assert await kit.db.read(notes, job.id) == ["first", "gave up"]


async def test_a_mistake_of_the_program_is_tried_again_and_then_given_up(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "RETRY_S", (0.01, 0.01))
    broken = Note("first", [RuntimeError("secret of the program")] * 20)
    async with working(kit, Notes(broken)) as worker:
        job = await settled(kit, worker, await put(kit, wanted()), "failed")
    assert broken.ran == model.MOST_FAILURES
    assert "secret" not in (job.reason or "")


async def test_a_cancelled_job_ends_whether_it_waits_or_runs(kit: Kit) -> None:
    slow = Note("first", [], wait_s=30)
    waiting = await put(kit, wanted())
    assert await kit.db.write(jobs.cancel, waiting) == "cancelled"
    async with working(kit, Notes(slow)) as worker:
        running = await put(kit, wanted())
        await settled(kit, worker, running, "running")
        while not slow.ran:
            await asyncio.sleep(0.01)
        assert await kit.db.write(jobs.cancel, running) == "running"
        job = await settled(kit, worker, running, "cancelled")
    assert (slow.ran, job.instance) == (1, None)
    assert await kit.db.read(notes, running) == ["gave up"]


async def test_a_worker_that_stops_hands_its_jobs_to_the_next_one(kit: Kit) -> None:
    first, slow = Note("first", []), Note("second", [], wait_s=30)
    async with working(kit, Notes(first, slow)) as worker:
        job_id = await put(kit, wanted())
        while not slow.ran:
            await asyncio.sleep(0.01)
        await settled(kit, worker, job_id, "running")
    left = await kit.db.read(jobs.get, job_id)
    assert left
    assert (left.state, left.step, left.failures) == ("queued", 1, 0)
    assert left.attempt - left.since == 0  # a restart does not speak against the job

    async with working(kit, Notes(Note("never", []), Note("second", []))) as worker:
        job = await settled(kit, worker, job_id, "done")
    assert job.checkpoint == {"first": 1, "second": 2}
    assert await kit.db.read(notes, job_id) == ["first", "second"]


async def test_a_job_that_was_taken_away_is_let_go_without_a_trace(kit: Kit) -> None:
    slow = Note("first", [], wait_s=30)
    async with working(kit, Notes(slow)) as worker:
        job_id = await put(kit, wanted())
        while not slow.ran:
            await asyncio.sleep(0.01)
        await kit.db.write(steal, job_id)
        await worker.heartbeat()
        await asyncio.sleep(0.1)
        left = await kit.db.read(jobs.get, job_id)
    assert left
    assert (left.state, left.attempt, left.instance) == ("running", 2, "thief")
    assert await kit.db.read(notes, job_id) == []


class Mover(Note):
    """Moves blocks until it is told to end."""

    def __init__(self) -> None:
        super().__init__("first", [])
        self.moved, self.ends = 0, False

    async def run(self, kit: Kit, work: Work) -> None:
        while not self.ends:
            await work.hold()
            self.moved += 1
            await asyncio.sleep(0.001)
        await super().run(kit, work)


async def moves(mover: Mover) -> bool:
    before = mover.moved
    await asyncio.sleep(0.2)
    return mover.moved > before + 1


async def test_a_job_stands_still_from_a_break_of_the_lease_until_it_is_seen_to_be_ours(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BEAT_S", 1000.0)
    mover = Mover()
    async with working(kit, Notes(mover)) as worker:
        job_id = await put(kit, wanted())
        while not await moves(mover):
            pass
        kit.lease.steady_since += 1
        assert not await moves(mover)

        await worker.heartbeat()
        assert await moves(mover)

        kit.lease.steady_since += 1
        await kit.db.write(steal, job_id)
        assert not await moves(mover)
        await worker.heartbeat()
        mover.ends = True
        assert not await moves(mover)
        left = await kit.db.read(jobs.get, job_id)
    assert left
    assert (left.state, left.attempt, left.step, mover.ran) == ("running", 2, 0, 0)


def steal(conn: Connection, job_id: str) -> None:
    instances.enlist(conn, "thief", "there", alone=False)
    conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(attempt=2, instance="thief"))


async def test_a_job_that_ends_its_workers_is_begun_only_so_often(kit: Kit) -> None:
    new = wanted()
    await kit.db.write(jobs.enqueue, new)
    await kit.db.write(wear_out, new.id)
    note = Note("first", [])
    async with working(kit, Notes(note)) as worker:
        kit.queue.ring()
        job = await settled(kit, worker, new.id, "failed")
        assert note.ran == 0
        assert "too often" in (job.reason or "")

        assert await kit.db.write(jobs.retry, new.id)
        kit.queue.ring()
        assert (await settled(kit, worker, new.id, "done")).attempt > model.MOST_ATTEMPTS


def wear_out(conn: Connection, job_id: str) -> None:
    conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(attempt=model.MOST_ATTEMPTS))


async def test_looking_after_jobs_disturbs_none_that_is_just_being_claimed_or_ends(kit: Kit) -> None:
    async with working(kit, Notes(Note("first", []))) as worker:

        async def look_after() -> None:
            while True:
                await worker.heartbeat()

        looks = [asyncio.create_task(look_after()) for _ in range(4)]
        made = [await put(kit, wanted()) for _ in range(80)]
        found = [await settled(kit, worker, job_id, "done") for job_id in made]
        for look in looks:
            look.cancel()
    assert {job.attempt for job in found} == {1}


async def test_a_worker_leaves_kinds_that_it_does_not_know_to_newer_ones(kit: Kit) -> None:
    unknown = msgspec.structs.replace(wanted(priority=model.USER), kind="of tomorrow")
    async with working(kit, Notes(Note("first", []))) as worker:
        await put(kit, unknown)
        await settled(kit, worker, await put(kit, wanted()), "done")
    left = await kit.db.read(jobs.get, unknown.id)
    assert left
    assert (left.state, left.attempt) == ("queued", 0)


class Robbed(Note):
    """A step that another process does first, while the answer to this process's own end of it gets lost."""

    proxy: Proxy

    def _change(self) -> Change:
        def change(conn: Connection, job: Job) -> dict[str, Any]:
            self.proxy.cut_at(rb"COMMIT", answered=True)
            conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(attempt=job.attempt + 1, step=1))
            return {}

        return change


@pytest.mark.slow
async def test_an_end_whose_answer_is_lost_does_not_go_on_under_the_attempt_of_another_process(
    mariadb: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "AGAIN_S", ())  # the worker has looked for jobs, and commits nothing but the step's end
    monkeypatch.setattr(loop, "LOOK_S", 60.0)
    url = mariadb.new_database()
    schema.upgrade(make_engine(url))
    with Proxy(mariadb.port) as proxy:
        robbed, second = Robbed("first", [], wait_s=2), Note("second", [])
        robbed.proxy = proxy
        async with kit_on(mariadb.url(url.rsplit("/", 1)[1], port=proxy.port), tmp_path) as kit, working(kit, Notes(robbed, second)):
            job_id = await put(kit, wanted())
            async with asyncio.timeout(20):
                while (await kit.db.read(jobs.get, job_id)).attempt < 2:  # type: ignore[union-attr]
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            assert (robbed.ran, second.ran) == (1, 0)
    mariadb.drop_database(url)


async def test_a_job_that_waits_for_its_turn_is_claimed_by_those_who_have_one_and_does_not_wear_out(kit: Kit) -> None:
    await kit.db.write(jobs.enqueue, wanted())
    waiting = model.converting_queue(model.ANY)
    for _ in range(model.MOST_ATTEMPTS + 1):
        found = await kit.db.write(jobs.claim, kit.lease.id, [model.ANY, waiting], NONE, [], random.Random(1))
        assert found
        assert not model.is_worn_out(found)
        assert await kit.db.write(jobs.await_turn, found, waiting)
        assert not await kit.db.write(jobs.await_turn, found, waiting)

    assert await claim(kit) is None
    assert await kit.db.write(step_done, found.id) == 1
    assert await kit.db.write(jobs.cancel, found.id) == "queued"
    ending = await claim(kit)
    assert ending
    assert (ending.cancel, ending.queue) == (True, model.ANY)


def step_done(conn: Connection, job_id: str) -> int:
    return conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(step=1)).rowcount


@pytest.mark.parametrize("way", ["queued", "put off", "handed back", "waits for a turn", "its process died"])
async def test_a_cancelled_job_ends_wherever_its_node_is_and_however_it_is_queued_again(kit: Kit, way: str) -> None:
    await kit.db.write(jobs.enqueue, wanted())
    job = await claim(kit)
    assert job
    await kit.db.write(step_done, job.id)
    await kit.db.write(jobs.route, job, model.node_queue("gone"))
    if way == "queued":
        await kit.db.write(jobs.hand_back, job)
    elif way == "put off":
        await kit.db.write(jobs.put_off, job, StoreDown("away"), 1000.0)

    await kit.db.write(jobs.cancel, job.id)
    if way == "handed back":
        await kit.db.write(jobs.hand_back, job)
    elif way == "waits for a turn":
        await kit.db.write(jobs.await_turn, job, model.converting_queue(model.node_queue("gone")))
    elif way == "its process died":
        await kit.db.write(dead, kit.lease.id)
        assert await kit.db.write(jobs.sweep, 10, dead=True) == [model.ANY]
        await kit.db.write(instances.enlist, kit.lease.id, "here", alone=False)

    async with working(kit, Notes(Note("first", []), Note("second", []))) as worker:
        kit.queue.ring()
        assert (await settled(kit, worker, job.id, "cancelled")).queue == model.ANY


async def test_a_job_waits_for_promised_room_without_a_failure_as_long_as_it_may(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "RETRY_S", (0.01, 0.01))
    monkeypatch.setattr(model, "ROOM_AGAIN_S", 0.01)
    often = model.MOST_FAILURES + model.MOST_ATTEMPTS
    note = Note("first", [RoomPromised("others write") for _ in range(often)])
    async with working(kit, Notes(note, Note("second", []))) as worker:
        job = await settled(kit, worker, await put(kit, wanted()), "done")
        assert (note.ran, job.failures, job.attempt - job.since) == (often + 1, 0, 1)

        endless = Note("first", [RoomPromised("others write") for _ in range(100)])
        worker._kinds = {"note": Notes(endless)}
        monkeypatch.setattr(loop, "ROOM_S", 0.0)
        job = await settled(kit, worker, await put(kit, wanted()), "failed")
        assert (endless.ran, job.reason) == (model.MOST_FAILURES, str(RoomPromised("others write")))


async def test_a_job_that_is_begun_anew_may_wait_for_room_as_long_as_before(kit: Kit) -> None:
    await kit.db.write(jobs.enqueue, wanted())
    job = await claim(kit)
    assert job
    await kit.db.write(jobs.await_room, job, RoomPromised("others write"), 0.0)
    await kit.db.write(long_ago, job.id)
    assert await kit.db.read(jobs.waited_for_room, job) > model.ROOM_S
    assert await kit.db.read(jobs.waited_for_room, msgspec.structs.replace(job, step=1)) == 0

    await kit.db.write(jobs.sweep, 10, dead=False)
    job = await claim(kit)
    assert job
    await kit.db.write(jobs.finish, job, "failed")
    await kit.db.write(jobs.retry, job.id)

    assert await kit.db.read(jobs.waited_for_room, job) == 0


def long_ago(conn: Connection, job_id: str) -> None:
    conn.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(checkpoint='{"room":[0,1],"kept":1}'))
