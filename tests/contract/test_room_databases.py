"""Room on a disk is promised before the first byte and never twice, on every database; a promise ends with the work that it was made for."""

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.context import Context
from ikon.db import copies, instances, jobs, room, schema, tables
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.image import parse_new
from ikon.model.job import ANY, Job, Limits, New
from ikon.periodic import reaper
from ikon.problems import Problem, RoomPromised, StoreFull, TooLarge
from ikon.queue import new_id
from ikon.service import data, imports
from ikon.service import images as verbs
from ikon.steps import staging
from ikon.steps.store import Store
from ikon.transfer.room import Room
from tests.contract.test_verbs_databases import ALICE, QUOTA, kit_on

MIB = 1 << 20


@pytest.fixture
async def kit(database_url: str, small_disk: Path) -> AsyncIterator[Kit]:
    """Stores and staging area together on 8 MiB."""
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, small_disk) as made:
        yield made


async def new_image(kit: Kit, who: Context = ALICE) -> str:
    return (await verbs.create(kit, who, parse_new({"disk_format": "raw", "container_format": "bare"}))).id


class Gate:
    """Streams of data that has begun to come, and comes no further until the gate is opened."""

    def __init__(self, expected: int = 1) -> None:
        self.begun, self._expected, self._said = 0, expected, 0
        self.open, self.settled = asyncio.Event(), asyncio.Event()

    async def stream(self, size: int) -> AsyncIterator[bytes]:
        self.begun += 1
        self.said()
        yield bytes(100_000)
        await self.open.wait()
        for at in range(100_000, size, 100_000):
            yield bytes(min(100_000, size - at))

    def said(self) -> None:
        """One more has begun or was refused."""
        self._said += 1
        if self._said == self._expected:
            self.settled.set()


async def put(kit: Kit, gate: Gate, size: int, *, store: str | None = None, announced: bool = True) -> Problem | None:
    """Upload into a store, or stage where none is named. Returns why it failed."""
    image, stream, given = await new_image(kit), gate.stream(size), size if announced else None
    try:
        if store:
            await data.upload(kit, ALICE, image, stream, store=store, size=given)
        else:
            await imports.stage(kit, ALICE, image, stream, size=given)
    except Problem as problem:
        gate.said()
        return problem
    return None


async def test_of_many_who_race_for_the_room_as_many_begin_as_fit(kit: Kit) -> None:
    gate = Gate(6)
    trying = [asyncio.create_task(put(kit, gate, 3 * MIB, store=(None, "one", "two")[n % 3])) for n in range(6)]
    await gate.settled.wait()
    gate.open.set()

    ended = await asyncio.gather(*trying)

    assert gate.begun == ended.count(None) == 2
    assert {type(problem) for problem in ended if problem} == {RoomPromised}
    assert await kit.db.read(room.promises, ["one", "two", "os_glance_staging_store"], "here") == []


async def test_what_was_written_of_a_promise_does_not_count_twice_and_its_end_gives_it_back(kit: Kit) -> None:
    gate = Gate()
    first = asyncio.create_task(put(kit, gate, 5 * MIB, store="one"))
    await gate.settled.wait()
    small, large = Gate(), Gate()
    small.open.set()
    large.open.set()

    assert await put(kit, small, 2 * MIB, store="two") is None
    refused = await put(kit, large, 2 * MIB, store="two")
    first.cancel()
    await asyncio.wait([first])

    assert isinstance(refused, RoomPromised)
    assert str(refused).startswith("Store two has no room for the 2097152 bytes that are asked for. Try again later")
    assert refused.because.endswith("are promised to others; its setting is [stores.two]")
    assert await put(kit, large, 4 * MIB, store="two") is None


async def test_data_of_unknown_length_takes_nothing_that_others_were_promised(kit: Kit) -> None:
    promised, unknown = Gate(), Gate()
    first = asyncio.create_task(put(kit, promised, 6 * MIB))
    await promised.settled.wait()
    unknown.open.set()

    problem = await put(kit, unknown, 3 * MIB, store="one", announced=False)
    promised.open.set()

    assert isinstance(problem, RoomPromised)
    assert await first is None


@pytest.mark.parametrize("announced", [True, False])
async def test_what_fits_nowhere_is_refused_by_name_and_leaves_nothing(kit: Kit, announced: bool) -> None:
    gate = Gate()
    gate.open.set()

    problem = await put(kit, gate, 9 * MIB, announced=announced)

    assert type(problem) is StoreFull
    assert "The staging area has no room for" in str(problem)
    assert problem.because.endswith("bytes are free; its setting is [staging] path")
    assert (gate.begun, problem.status) == (0 if announced else 1, TooLarge.status)
    assert await put(kit, gate, 7 * MIB) is None


async def test_the_promise_to_a_process_that_died_is_free_again(kit: Kit, database_url: str) -> None:
    image, gate = await new_image(kit), Gate()
    gate.open.set()
    attempt = data.new_attempt(kit, image, "one")
    row = msgspec.structs.replace(data.record(kit, attempt, 6 * MIB), instance="ghost")
    await kit.db.write(instances.enlist, "ghost", "elsewhere", alone=False)
    await kit.db.write(data._begin, ALICE, attempt, row, 6 * MIB, QUOTA, await kit.intake.rooms.measure("one"))

    before = await put(kit, gate, 6 * MIB)
    await kit.db.write(instances.retire, "ghost")
    await reaper.run_once(kit)

    assert isinstance(before, RoomPromised)
    assert await put(kit, gate, 6 * MIB) is None


async def fetching(kit: Kit, instance: str, size: int, *stores: str) -> Job:
    """A running job that fetches so many bytes, and has been promised their place in stores."""
    new = New(id=new_id(), kind="import", image_id=await new_image(kit), input=job_input(stores), project="alpha")
    await kit.db.write(jobs.enqueue, new)
    job = await kit.db.write(jobs.claim, instance, [ANY], Limits(), [], random.Random(1))
    assert job is not None
    rooms = [await kit.intake.rooms.measure(store) for store in stores]
    await kit.db.write(staging._admit, job, size, rooms)
    return job


def job_input(stores: tuple[str, ...]) -> dict[str, Any]:
    return {"request": {"method": "web-download", "must_succeed": True}, "stores": list(stores)}


@pytest.mark.parametrize("end", ["done", "killed"])
async def test_a_job_that_fetches_is_promised_its_place_in_its_stores_until_it_ends(kit: Kit, end: str) -> None:
    await kit.db.write(instances.enlist, "ghost", "here", alone=False)
    job = await fetching(kit, "ghost", 3 * MIB, "one", "two")
    gate = Gate()
    gate.open.set()

    refused = await put(kit, gate, 3 * MIB)
    with pytest.raises(StoreFull):
        await fetching(kit, kit.lease.id, 3 * MIB, "one", "two")
    await kit.db.write(instances.retire, "ghost") if end == "killed" else await kit.db.write(jobs.finish, job, "done")

    assert isinstance(refused, RoomPromised)
    assert await put(kit, gate, 7 * MIB) is None


async def test_two_stores_on_one_disk_need_their_room_twice(kit: Kit) -> None:
    with pytest.raises(StoreFull) as problem:
        await fetching(kit, kit.lease.id, 5 * MIB, "one", "two")

    assert f"{10 * MIB} bytes that are asked for" in str(problem.value)


def locked(conn: Connection, promise: Callable[[Connection], Any]) -> list[str]:
    """Places in the order in which a job that is promised room locks them."""
    found: list[str] = []

    def touched(conn: Connection, statement: Any, many: Any, values: Any, options: Any) -> None:
        if statement is room.TOUCH:
            found.append(values["place"])

    sa.event.listen(conn, "before_execute", touched)
    promise(conn)
    sa.event.remove(conn, "before_execute", touched)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("step", ["fetch", "store"])
async def test_disks_are_locked_in_one_order_whatever_the_order_of_stores(kit: Kit, step: str) -> None:
    job = await fetching(kit, kit.lease.id, 1, "one", "two")
    assert job.image_id is not None
    rows = {store: data.record(kit, data.new_attempt(kit, job.image_id, store), 0) for store in ("one", "two")}
    await kit.db.write(copies.intend, data.record(kit, data.new_attempt(kit, job.image_id, "one"), 1))
    measured = await kit.intake.rooms.measure("one")
    first, second = (
        msgspec.structs.replace(measured, store=store, stores=[store], places=places)
        for store, places in (("one", ["r:a", "r:c"]), ("two", ["r:b"]))
    )

    def promise(conn: Connection, rooms: list[Room]) -> None:
        if step == "fetch":
            staging._admit(conn, job, 1, rooms)
        else:
            named = {room.store: room for room in rooms}
            Store(staged=False)._begin(conn, job, [rows[store] for store in named], named)
            conn.execute(sa.delete(tables.copies).where(tables.copies.c.id.in_([row.id for row in rows.values()])))

    for rooms in ([first, second], [second, first]):
        assert await kit.db.write(locked, functools.partial(promise, rooms=rooms)) == ["r:a", "r:b", "r:c"]


async def test_a_promise_on_another_nodes_own_disk_takes_no_room_here(kit: Kit) -> None:
    image, gate = await new_image(kit), Gate()
    gate.open.set()
    attempt = data.new_attempt(kit, image, "one")
    row = msgspec.structs.replace(data.record(kit, attempt, 6 * MIB), node="elsewhere")
    await kit.db.write(data._begin, ALICE, attempt, row, 6 * MIB, QUOTA, await kit.intake.rooms.measure("one"))

    assert await put(kit, gate, 6 * MIB) is None
