"""Jobs as operators see them: list, show, try a failed one again, cancel one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from ikon import log, policy
from ikon.context import Context
from ikon.db import copies, events, images, instances, jobs
from ikon.kit import Kit
from ikon.model.image import UUID, Image
from ikon.model.imports import COPY, LOCATION
from ikon.model.job import ENDED, Job
from ikon.problems import Cancelled, Conflict, NotFound
from ikon.stores.registry import STAGING


class Seen(NamedTuple):
    """A job, the names of its steps, and whether the process at work on it is "alive", "silent" or "gone"; "" when none is."""

    job: Job
    steps: Sequence[str]
    owner: str


async def browse(kit: Kit, ctx: Context, states: Sequence[str] | None, equal: dict[str, str], marker: str | None, limit: int) -> list[Seen]:
    """A page of jobs, newest first, behind the marker. equal: values that columns must have. Raises Forbidden, BadValue."""
    policy.require(ctx, "manage_jobs")
    return await kit.db.read(_browse, kit, states, equal, marker, limit)


def _browse(conn: Connection, kit: Kit, states: Sequence[str] | None, equal: dict[str, str], marker: str | None, limit: int) -> list[Seen]:
    return [_seen(conn, kit, job) for job in jobs.page(conn, marker, limit, states, equal, ascending=False)]


async def show(kit: Kit, ctx: Context, job_id: str) -> Seen:
    """One job. Raises Forbidden, NotFound."""
    policy.require(ctx, "manage_jobs")
    return await kit.db.read(_show, kit, job_id)


def _show(conn: Connection, kit: Kit, job_id: str) -> Seen:
    return _seen(conn, kit, _found(conn, job_id))


def _seen(conn: Connection, kit: Kit, job: Job) -> Seen:
    return Seen(job, kit.kinds.steps(job), instances.state(conn, job.instance) if job.state == "running" else "")


def _found(conn: Connection, job_id: str) -> Job:
    job = jobs.get(conn, job_id) if UUID.fullmatch(job_id) else None
    if job is None:
        raise NotFound(f"No job found with ID {job_id}")
    return job


def _locked(conn: Connection, job_id: str) -> tuple[Job, Image | None]:
    """The job and its image, whose row is locked: nobody begins or ends a job of it meanwhile."""
    job = _found(conn, job_id)
    image = images.lock(conn, job.image_id) if job.image_id else None
    return _found(conn, job_id), image


async def _steer(kit: Kit, ctx: Context, job_id: str, how: Callable[[Connection, Kit, Context, str], Seen], done: str) -> Seen:
    policy.require(ctx, "manage_jobs")
    seen = await kit.db.write(how, kit, ctx, job_id)
    kit.queue.ring()
    log.get().info(done, job=job_id, image=seen.job.image_id, request=ctx.request_id)
    return seen


async def retry(kit: Kit, ctx: Context, job_id: str) -> Seen:
    """Begin a failed job again at the step that failed, with what the steps before it left.

    Raises Forbidden, NotFound, and Conflict with the reason where the job has not failed or its image has moved on.
    """
    return await _steer(kit, ctx, job_id, _retry, "job begun again")


def _retry(conn: Connection, kit: Kit, ctx: Context, job_id: str) -> Seen:
    job, image = _locked(conn, job_id)
    if job.state != "failed":
        raise Conflict(f"Only failed jobs are tried again; this one is {job.state}")
    if job.image_id is not None:
        if image is None:
            raise Conflict("The job's image has been deleted")
        _require_as_left(conn, job, image)
        if job.kind == "copy" or image.status != "active":  # else a further location of it, which it does without
            status = image.status if job.kind == "copy" else "importing"
            importing = msgspec.structs.replace(image.importing, job=job.id, to=list(job.input["stores"]), failed=[])
            image = images.save(conn, image, msgspec.structs.replace(image, status=status, importing=importing))
        events.add(conn, ctx, "image.import.retry", image, msgspec.json.encode(events.job_facts(job)).decode())
    jobs.retry(conn, job.id, kit.settings.jobs.deadline_s)
    return _show(conn, kit, job.id)


def _require_as_left(conn: Connection, job: Job, image: Image) -> None:
    """Raises Conflict unless an image is as its failed job has left it."""
    if image.importing.job is not None:
        raise Conflict(f"The image is being worked on by job {image.importing.job}")
    if job.input["request"]["method"] == COPY:
        present = [store for store in job.input["stores"] if store in image.stores]
        if image.status != "active" or present:
            raise Conflict(f"The image has moved on: it is {image.status}, in {', '.join(image.stores) or 'no store'}")
        return
    if job.kind == LOCATION and not copies.check_again(conn, job.input["copy"]):
        raise Conflict("The image has moved on: the location is not in its record any more")
    if image.status not in (("queued", "active") if job.kind == LOCATION else ("queued", "uploading")):
        raise Conflict(f"The image has moved on: it is {image.status}")
    staged = [copy.id for copy in copies.of_image(conn, image.id) if copy.store == STAGING and copy.state in ("writing", "ready")]
    needed = job.checkpoint.get("staged") or job.input.get("staged")
    if needed and needed not in staged:
        raise Conflict("The data that was staged for this job is not kept any more. Bring it again, and import anew")
    fetched = job.checkpoint.get("fetched") or job.input.get("fetched")  # which is gone on from, where it is there
    if [copy for copy in staged if copy not in (needed, fetched and fetched["copy"])]:
        raise Conflict("The image has moved on: other data has been staged since. Import that")


async def cancel(kit: Kit, ctx: Context, job_id: str) -> Seen:
    """End a job that has not ended: at once where nobody works on it, else as soon as its worker hears of it.

    Raises Forbidden, NotFound, Conflict for one that has ended.
    """
    return await _steer(kit, ctx, job_id, _cancel, "job cancelled")


def _cancel(conn: Connection, kit: Kit, ctx: Context, job_id: str) -> Seen:
    job, image = _locked(conn, job_id)
    if job.state in ENDED:
        raise Conflict(f"The job has ended already: it is {job.state}")
    if not kit.kinds.steps(job):
        raise Conflict(f"This server does not know jobs of kind {job.kind}; a newer one does")
    if image is not None:
        events.add(conn, ctx, "image.import.cancel", image, msgspec.json.encode(events.job_facts(job)).decode())
    if jobs.cancel(conn, job.id) == "cancelled":
        kit.kinds.gave_up(conn, job, Cancelled())
    return _show(conn, kit, job.id)
