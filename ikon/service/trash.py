"""The trash, for operators: deleted images that can be had back until their time is over."""

import msgspec
from sqlalchemy import Connection

from ikon import log, policy
from ikon.context import Context
from ikon.db import copies, events, images, trash
from ikon.db.copies import READABLE, Copy
from ikon.db.engine import now_ms
from ikon.kit import Kit
from ikon.model.image import UUID, Image
from ikon.model.trash import Place, Trashed
from ikon.problems import Busy, Conflict, NotFound, Problem
from ikon.service.images import K_TRIES
from ikon.stores.base import CopyMissing

#: Images purged in one transaction.
BATCH = 50


async def browse(kit: Kit, ctx: Context, after: Place | None) -> list[Trashed]:
    """A page of the images in the trash, those that stay longest first, behind a place. Raises Forbidden."""
    policy.require(ctx, "manage_trash")
    return await kit.db.read(trash.page, after, kit.settings.limits.page_max)


async def restore(kit: Kit, ctx: Context, image_id: str) -> Image:
    """Have an image back as it was: record, members, tags, data, its place in lists. Raises Forbidden, NotFound, Conflict without data."""
    policy.require(ctx, "manage_trash")
    found = await kit.db.read(copies.of_image, _checked(image_id))
    missing = {copy.id for copy in found if copy.state in READABLE and await _is_missing(kit, copy)}
    for later in range(K_TRIES):
        try:
            image = await kit.db.write(_restore, ctx, image_id, missing, later)
        except images.TakenK:
            continue
        log.get().info("image restored", image=image_id, request=ctx.request_id)
        return image
    raise Busy("Too many images were created in the microsecond that this one was created in", retry_after_s=1)


async def _is_missing(kit: Kit, copy: Copy) -> bool:
    """Whether a copy's bytes are known to be gone. A store that does not answer, or is another node's, proves nothing."""
    store = kit.stores.find(copy.store)
    if store is None or copy.node not in (None, kit.lease.node):
        return False
    try:
        file = await store.open(copy.url)
        try:
            return file.size != copy.size
        finally:
            file.close()
    except CopyMissing:
        return True
    except Problem:
        return False


def _restore(conn: Connection, ctx: Context, image_id: str, missing: set[str], later: int) -> Image:
    """later: microseconds to move its place in lists by, for another image has it."""
    trashed = trash.lock(conn, image_id)
    if trashed is None:
        raise _not_there(image_id)
    there = [copy for copy in copies.of_image(conn, image_id) if copy.state in READABLE and copy.id not in missing]
    if not there:
        raise Conflict(f"The data of image {image_id} is gone from every store, so that it cannot be restored. Purge it")
    for copy_id in missing:
        copies.suspect(conn, copy_id)
    stores = list(dict.fromkeys(copy.store for copy in there))
    was = trashed.image
    image = msgspec.structs.replace(was, k=was.k + later, stores=stores, version=was.version + 1, updated=max(images.now_us(), was.updated))
    images.put_back(conn, image)
    trash.take_out(conn, image_id)
    events.add(conn, ctx, "image.restore", image)
    return image


async def purge(kit: Kit, ctx: Context, image_id: str) -> None:
    """Delete an image in the trash for good, its bytes now. Raises Forbidden, NotFound."""
    policy.require(ctx, "manage_trash")
    count, doomed = await kit.db.write(_purge, ctx, [_checked(image_id)])
    if not count:
        raise _not_there(image_id)
    for copy in doomed:
        await kit.intake.remove(copy)
    log.get().info("image purged", image=image_id, request=ctx.request_id)


async def purge_all(kit: Kit, ctx: Context) -> int:
    """Delete for good whatever is in the trash now; the reaper deletes the bytes. Returns how many images that were. Raises Forbidden."""
    policy.require(ctx, "manage_trash")
    total, moment = 0, await kit.db.read(now_ms)
    while ids := await kit.db.read(trash.until, moment, BATCH):
        count, _ = await kit.db.write(_purge, ctx, ids)
        total += count
    log.get().info("trash emptied", images=total, request=ctx.request_id)
    return total


async def purge_due(kit: Kit, ctx: Context) -> int:
    """Purge some images whose time is over; the reaper deletes the bytes. Returns how many."""
    ids = await kit.db.read(trash.due, BATCH)
    return (await kit.db.write(_purge, ctx, ids))[0] if ids else 0


def _purge(conn: Connection, ctx: Context, ids: list[str]) -> tuple[int, list[Copy]]:
    """Condemn the copies of these images as far as they are still in the trash. Returns how many are, and the copies."""
    count, doomed = 0, list[Copy]()
    for image_id in sorted(ids):  # in one order, so that two who purge do not wait for each other in a ring
        if trashed := trash.lock(conn, image_id):
            found = [copy for copy in copies.of_image(conn, image_id) if copies.condemn(conn, copy)]
            trash.take_out(conn, image_id)
            image = msgspec.structs.replace(trashed.image, version=trashed.image.version + 1)
            events.add(conn, ctx, "image.purge", image)
            count, doomed = count + 1, doomed + found
    return count, doomed


def _checked(image_id: str) -> str:
    """The id, if it can be one: not every database takes any text in a look-up."""
    if not UUID.fullmatch(image_id):
        raise _not_there(image_id)
    return image_id


def _not_there(image_id: str) -> NotFound:
    return NotFound(f"No image with ID {image_id} is in the trash")
