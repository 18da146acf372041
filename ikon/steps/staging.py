"""What steps that bring or change staged data have in common: the data before it, the data after it, and which of them counts."""

import functools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from sqlalchemy import Connection

from ikon.context import Context, new_request_id
from ikon.db import copies, images, jobs, usage
from ikon.db.copies import Copy
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.job import Job, node_queue
from ikon.problems import StagedDataGone, StoreFull
from ikon.service.data import drop_staged, new_attempt, record
from ikon.steps.base import Work
from ikon.stores.registry import STAGING
from ikon.transfer.attempts import Attempt
from ikon.transfer.intake import Facts, lost
from ikon.transfer.room import Room, lock, require

#: Changes of the image's record beside its staged data, given what it was.
Changes = Callable[[Image], dict[str, Any]]


def context(job: Job) -> Context:
    """Who a job is done for, as events name them."""
    return Context(user=job.user, project=job.project or None, request_id=job.request_id or new_request_id())


def caller(job: Job) -> Context:
    """Who asked for a job, as they were then, for rules that look at roles."""
    said = job.input
    return Context(
        user=job.user,
        project=said.get("project"),
        domain=said.get("domain"),
        roles=frozenset(said.get("roles", ())),
        service_roles=frozenset(said.get("service_roles", ())),
    )


def find(conn: Connection, job: Job) -> tuple[Image, Copy]:
    """A job's image and the staged data to go on from. Raises what `lost` does, and StagedDataGone."""
    image = images.get(conn, job.image_id or "")
    if image is None:
        raise lost(conn, job.image_id or "")
    found = [copy for copy in copies.of_image(conn, image.id) if copy.store == STAGING and copy.state == "ready"]
    named = [copy for copy in found if copy.id == job.checkpoint.get("staged", copy.id)]
    if not named:
        raise StagedDataGone
    return image, named[0]


async def anew(
    kit: Kit,
    work: Work,
    fill: Callable[[Attempt], Awaitable[Facts]],
    changes: Changes = lambda image: {},
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """End a step with new staged data in place of any before. fill: writes it under an attempt of its own. notes: for the checkpoint."""
    assert work.job.image_id is not None
    ctx, attempt = context(work.job), new_attempt(kit, work.job.image_id, STAGING)
    async with kit.intake.undoing(ctx, attempt):
        await kit.db.write(_begin, work.job, record(kit, attempt, 0))
        facts = await fill(attempt)
        queue = node_queue(kit.lease.node) if kit.stores[STAGING].local else None
        await work.end(
            functools.partial(_finish, copy_id=attempt.copy_id, me=kit.lease.id, size=facts.size, queue=queue, changes=changes, notes=notes)
        )


async def admit(kit: Kit, work: Work, size: int) -> None:
    """Promise a job that fetches so many bytes room for them in its stores and in its project's quota, before the first of them comes.

    Raises StoreFull, RoomPromised, QuotaExceeded, and what `lost` does.
    """
    rooms = [await kit.intake.rooms.measure(store) for store in work.job.input["stores"]]
    await kit.db.write(_admit, work.job, size, rooms)


def _admit(conn: Connection, job: Job, size: int, rooms: Sequence[Room]) -> None:
    image, held = images.lock(conn, job.image_id or ""), jobs.lock(conn, job)
    if image is None or held is None:
        raise lost(conn, job.image_id or "")
    full: list[StoreFull] = []
    lock(conn, rooms)
    for room in rooms:
        try:
            require(conn, room, size * sum(each.store in room.stores for each in rooms), image.id)
        except StoreFull as problem:
            full.append(problem)
    if full and (job.input["request"]["must_succeed"] or len(full) == len(rooms)):
        raise full[0]
    jobs.end_step(conn, held, held.step, held.checkpoint | {"promised": size})
    usage.demand(conn, image.owner or job.project, image.id, size * (len(rooms) - len(full)))


def _begin(conn: Connection, job: Job, row: Copy) -> None:
    image = images.lock(conn, job.image_id or "")
    if image is None:
        raise lost(conn, job.image_id or "")
    copies.intend(conn, msgspec.structs.replace(row, project=image.owner or job.project))


def _finish(
    conn: Connection, job: Job, *, copy_id: str, me: str, size: int, queue: str | None, changes: Changes, notes: Mapping[str, Any]
) -> dict[str, Any]:
    image = images.lock(conn, job.image_id or "")
    if image is None or not copies.finish(conn, copy_id, me, size):
        raise lost(conn, job.image_id or "")
    drop_staged(conn, image.id, keep=copy_id)
    images.save(conn, image, msgspec.structs.replace(image, size=size, **changes(image)))
    if queue is not None:
        jobs.route(conn, job, queue)  # only this node can go on
    return {"staged": copy_id, **notes}


async def watched(blocks: AsyncIterable[bytes], work: Work, size: int | None) -> AsyncIterator[bytes]:
    """The data, saying how far it is, and standing still while the job may be another process's."""
    done = 0
    async for block in blocks:
        await work.hold()
        done += len(block)
        work.moved(done, size)
        yield block
