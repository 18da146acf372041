"""Import: data is staged or fetched, and a durable job brings it into stores."""

from collections.abc import AsyncIterable
from typing import Any

import msgspec
from sqlalchemy import Connection

from ikon import log, policy
from ikon.context import Context
from ikon.db import copies, events, images, instances, jobs, usage
from ikon.db.copies import Copy
from ikon.kit import Kit
from ikon.model.image import UUID, Image, Importing
from ikon.model.imports import COPY, DIRECT, REMOTE, WEB, Request, require_ready
from ikon.model.job import ANY, BACKGROUND, USER, Job, New, node_queue
from ikon.model.signature import Proof, proof_of, require_same
from ikon.model.tasks import POSTED, NewTask, Tasks
from ikon.problems import BadRequest, Conflict, Forbidden, ImageTooLarge, NotFound, OutcomeUnknown, StagedDataGone
from ikon.queue import new_id
from ikon.seal import seal
from ikon.service.data import drop_staged, new_attempt, record
from ikon.service.images import create, reachable
from ikon.stores.registry import STAGING
from ikon.transfer.attempts import Attempt
from ikon.transfer.intake import Bounds, Facts, lost
from ikon.transfer.room import Room, require

#: Jobs of an image, the latest, that are looked at for data which they have fetched.
LOOKED_AT = 10


async def stage(kit: Kit, ctx: Context, image_id: str, blocks: AsyncIterable[bytes], *, size: int | None) -> None:
    """Keep an image's data until its import. size: bytes that the client announced, None when it did not.

    Raises NotFound where nothing can be imported from there, ImageNotFound, Forbidden, StatusConflict, ImageTooLarge, QuotaExceeded,
    StoreFull, RoomPromised, StoreDown, ClientGone, ImageDeleted. When it fails the image is queued again with the reason.
    """
    if DIRECT not in kit.settings.imports.methods:
        raise NotFound(f"'{DIRECT}' method is not available at this site.")
    attempt, most = new_attempt(kit, image_id, STAGING), kit.settings.limits.image_bytes
    room = await kit.intake.rooms.measure(STAGING)
    async with kit.intake.undoing(ctx, attempt):
        await kit.db.write(_begin_stage, ctx, attempt, record(kit, attempt, size or 0), size, most, room)
        attempt.reserved = size or 0
        facts = await kit.intake.take_in(attempt, blocks, Bounds(size, most))
        await kit.lease.held()
        try:
            await kit.db.write(_finish_stage, ctx, attempt, facts, kit.lease.id)
        except OutcomeUnknown:
            found = await kit.db.read(copies.get, attempt.copy_id)
            if found is None or found.state != "ready":
                raise
    log.get().info("image staged", image=image_id, size_bytes=facts.size, request=ctx.request_id)


def _begin_stage(conn: Connection, ctx: Context, attempt: Attempt, copy: Copy, size: int | None, most: int, room: Room) -> None:
    image = reachable(conn, ctx, attempt.image_id, lock=True)
    policy.require(ctx, "modify_image", image)
    images.move(conn, image, "queued", "uploading", size=None)
    if size is not None and size > most:
        raise ImageTooLarge(f"The incoming image is too large: {size} bytes are announced, {most} are allowed")
    require(conn, room, copy.reserved, image.id)
    copies.intend(conn, msgspec.structs.replace(copy, project=image.owner or ctx.project))


def _finish_stage(conn: Connection, ctx: Context, attempt: Attempt, facts: Facts, me: str) -> None:
    image = images.lock(conn, attempt.image_id)
    if image is None or not copies.finish(conn, attempt.copy_id, me, facts.size):
        raise lost(conn, attempt.image_id)
    drop_staged(conn, image.id, keep=attempt.copy_id)  # what a failed import has left
    image = images.save(conn, image, msgspec.structs.replace(image, size=facts.size, reason=None))
    events.add(conn, ctx, "image.stage", image)


async def start(kit: Kit, ctx: Context, image_id: str, request: Request) -> str | None:
    """Enqueue an import, or a copy of an active image into more stores. Returns the job's id, None where there is nothing to do.

    Raises Conflict for a store that is not configured, ImageNotFound, Forbidden, StatusConflict, BadRequest, QuotaExceeded,
    SignatureRefused, IdentityDown, KeyManagerDown.
    """
    named = tuple(kit.stores.writable) if request.all_stores else request.stores or (kit.stores.default,)
    for store in named:
        if store not in kit.stores.all:
            raise Conflict(f"Store for identifier {store} not found")
        if kit.stores.all[store].read_only:
            raise Conflict(f"Store {store} is read-only: nothing is imported into it")
    if request.uri is not None:
        kit.fetcher.check(request.uri)
    job_id, deadline_s = new_id(), kit.settings.jobs.deadline_s
    proof = None
    if kit.signatures and request.method != COPY:  # asked for now, while the caller's token is good
        image = await kit.db.read(_importable, ctx, image_id, request)
        proof = await kit.signatures.proof(ctx, image.properties, image_id)
    asked = _asked(kit, ctx, request, job_id, proof) | await _endpoint(kit, ctx, request)
    queue = await kit.db.write(_start, ctx, image_id, request, named, job_id, asked, deadline_s)
    if queue is None:
        return None
    kit.queue.ring(queue)
    log.get().info("import enqueued", image=image_id, job=job_id, method=request.method, request=ctx.request_id)
    return job_id


def _start(
    conn: Connection,
    ctx: Context,
    image_id: str,
    request: Request,
    named: tuple[str, ...],
    job_id: str,
    asked: dict[str, Any],
    deadline_s: float,
) -> str | None:
    """Returns the queue that has work by that, None when there is nothing to do."""
    image = _importable(conn, ctx, image_id, request, lock=True)
    require_same(image.properties, proof_of(asked))
    targets = [store for store in named if store not in image.stores]
    if request.method == COPY and not request.all_stores and len(targets) < len(named):
        raise BadRequest(f"Image is already present at store '{next(store for store in named if store in image.stores)}'")
    if not targets:
        return None
    fetched, staged = fetched_before(conn, image, request)
    staged = staged_copy(conn, image) if request.method == DIRECT else staged
    queue = node_queue(staged.node) if staged and staged.node else ANY
    asked = asked | ({"fetched": fetched} if fetched else {"staged": staged.id} if staged else {})
    usage.demand(conn, image.owner or ctx.project, image.id, 0)  # how much it will be, its steps know
    _enqueue(conn, ctx, image, targets, "copy" if request.method == COPY else "import", job_id, asked, deadline_s, queue)
    return queue


def _importable(conn: Connection, ctx: Context, image_id: str, request: Request, *, lock: bool = False) -> Image:
    image = reachable(conn, ctx, image_id, lock=lock)
    require_ready(image, request)
    policy.require(ctx, "copy_image" if request.method == COPY else "modify_image", image)
    return image


def _enqueue(
    conn: Connection,
    ctx: Context,
    image: Image,
    targets: list[str],
    kind: str,
    job_id: str,
    asked: dict[str, Any],
    deadline_s: float,
    queue: str = ANY,
) -> Image:
    """Add the job that brings data into a locked image, and say so in its record."""
    status = image.status if kind == "copy" else "importing"
    image = images.save(conn, image, msgspec.structs.replace(image, status=status, importing=Importing(job_id, targets, known=True)))
    jobs.enqueue(
        conn,
        New(
            id=job_id,
            kind=kind,
            image_id=image.id,
            input=asked | {"stores": targets},
            project=image.owner or ctx.project or "",
            store=targets[0],
            queue=queue,
            priority=BACKGROUND if kind == "copy" else USER,
            user=ctx.user,
            request_id=ctx.request_id,
            deadline_s=deadline_s,
            total_bytes=image.size,
        ),
    )
    events.add(conn, ctx, "image.import", image, f"{asked['request']['method']} into {', '.join(targets)}")
    return image


async def _endpoint(kit: Kit, ctx: Context, request: Request) -> dict[str, str | None]:
    """Where the job finds a region that the settings do not name: the endpoint in the catalogue of the caller's token, as it is now.

    None where there is none, which fails the job. Without a `secret` nobody looks: the other side wants the token, which could not be kept.
    """
    if request.region is None or request.region in kit.settings.regions or not (kit.keystone and ctx.token and kit.settings.secret):
        return {}
    return {"endpoint": (await kit.keystone.endpoints(ctx.token, request.interface or "public")).get(request.region)}


def _asked(kit: Kit, ctx: Context, request: Request, job_id: str, proof: Proof | None) -> dict[str, Any]:
    """What a job must know of who asked and for what. A caller's token is sealed: for a region that judges by itself."""
    given = {key: value for key, value in msgspec.to_builtins(request).items() if value is not None}
    asked = {"request": given, "steps": _steps(kit, request), "roles": sorted(ctx.roles), "admin": ctx.admin}
    asked |= {"service_roles": sorted(ctx.service_roles), "project": ctx.project, "domain": ctx.domain}
    if kit.settings.conversion.output_format:
        asked["output_format"] = kit.settings.conversion.output_format  # as the steps: what is asked of a job does not change under it
    if proof is not None:
        asked["proof"] = msgspec.to_builtins(proof)
    region = kit.settings.regions.get(request.region or "")
    passed_on = request.region is not None and not (region and region.user)
    if passed_on and ctx.token and kit.settings.secret:
        asked["token"] = seal(kit.settings.secret, ctx.token, job_id)
    return asked


def _steps(kit: Kit, request: Request) -> list[str]:
    """Names of the steps of an import, as the settings are now: a job keeps them, whatever they are when it goes on."""
    rules = kit.settings
    chosen = {
        "web-download": request.method == WEB,
        "glance-download": request.method == REMOTE,
        "decompress": rules.imports.decompress,
        "convert": bool(rules.conversion.output_format),
        "inject-metadata": bool(rules.imports.inject),
        "store": True,
    }
    return [name for name, wanted in chosen.items() if wanted]


def fetched_before(conn: Connection, image: Image, request: Request) -> tuple[dict[str, str] | None, Copy | None]:
    """What an earlier import has fetched from the same place, as it noted it, and its copy; unless that is gone, or on a node that is."""
    place = [request.uri, request.region, request.remote_id]
    for job in reversed(jobs.of_image(conn, image.id, LOOKED_AT) if request.method in (WEB, REMOTE) else []):
        noted, asked = job.checkpoint.get("fetched"), job.input["request"]
        same = [asked.get("uri"), asked.get("region"), asked.get("remote_id")] == place
        copy = copies.get(conn, noted["copy"]) if noted and same else None
        if copy and copy.state in copies.STAGED and (copy.node is None or instances.serves(conn, copy.node)):
            return noted, copy
    return None, None


def staged_copy(conn: Connection, image: Image) -> Copy:
    """The image's staged data. Raises StagedDataGone when there is none, which only a lost disk can bring about."""
    found = [copy for copy in copies.of_image(conn, image.id) if copy.store == STAGING and copy.state == "ready"]
    if not found:
        raise StagedDataGone
    return found[0]


async def tasks(kit: Kit, ctx: Context, image_id: str) -> list[Job]:
    """The jobs of an image, oldest first, for its owner and administrators. Raises ImageNotFound, Forbidden."""
    return await kit.db.read(_tasks, ctx, image_id)


def _tasks(conn: Connection, ctx: Context, image_id: str) -> list[Job]:
    image = reachable(conn, ctx, image_id)
    policy.require(ctx, "get_image_tasks", image)
    return jobs.of_image(conn, image_id)


async def post_task(kit: Kit, ctx: Context, new: NewTask) -> Job:
    """Register an image and enqueue the import of its data, for administrators: both or neither.

    Raises Forbidden, also where nothing may be fetched from the web, SourceNotAllowed, QuotaExceeded, ImageExists, SignatureRefused,
    KeyManagerDown.
    """
    policy.require(ctx, "tasks_api_access")
    if WEB not in kit.settings.imports.methods:
        raise Forbidden(f"'{WEB}' method is not available at this site.")
    kit.fetcher.check(new.uri)
    job_id, request = new_id(), Request(WEB, uri=new.uri)
    proof = await kit.signatures.proof(ctx, new.image.properties, new.image.id) if kit.signatures else None
    asked = _asked(kit, ctx, request, job_id, proof) | {"task": new.shown}
    targets, deadline_s = [kit.stores.default], kit.settings.jobs.deadline_s
    image = await create(kit, ctx, new.image, lambda conn, image: _enqueue(conn, ctx, image, targets, POSTED, job_id, asked, deadline_s))
    kit.queue.ring()
    log.get().info("import enqueued", image=image.id, job=job_id, method=WEB, request=ctx.request_id)
    return await task(kit, ctx, job_id)


async def all_tasks(kit: Kit, ctx: Context, asked: Tasks) -> list[Job]:
    """A page of all jobs, for administrators. Raises Forbidden, BadValue for an unknown marker."""
    policy.require(ctx, "tasks_api_access")
    if not asked.limit:
        return []
    return await kit.db.read(jobs.page, asked.marker, asked.limit, asked.states, asked.equal, ascending=asked.ascending, kinds=asked.kinds)


async def task(kit: Kit, ctx: Context, job_id: str) -> Job:
    """One job, for administrators. Raises Forbidden, NotFound."""
    policy.require(ctx, "tasks_api_access")
    found = await kit.db.read(jobs.get, job_id) if UUID.fullmatch(job_id) else None
    if found is None:
        raise NotFound(f"Could not find task {job_id}")
    return found
