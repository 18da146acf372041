"""Copies of an image's bytes in several stores: make one more, or take one away."""

import msgspec
from sqlalchemy import Connection

from ikon import log, policy, quota
from ikon.context import Context
from ikon.db import copies, events, images
from ikon.db.copies import Copy
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.problems import BadValue, Conflict, DataUnavailable, Forbidden, ImageNotFound, NotFound, OutcomeUnknown, StatusConflict
from ikon.service.data import new_attempt, record
from ikon.service.images import reachable
from ikon.transfer.attempts import Attempt
from ikon.transfer.intake import Bounds, Facts, lost
from ikon.transfer.room import Room, require


async def copy(kit: Kit, ctx: Context, image_id: str, store: str) -> None:
    """Put one more copy of an active image into a store, every block of it checked on the way.

    Raises ImageNotFound, Forbidden, BadValue, StatusConflict, Conflict, QuotaExceeded, DataUnavailable, StoreFull, RoomPromised, StoreDown,
    ImageDeleted.
    """
    attempt = new_attempt(kit, image_id, kit.stores.choose(store))
    room = await kit.intake.rooms.measure(attempt.store)
    async with kit.intake.undoing(ctx, attempt):
        image, sources = await kit.db.write(_begin, ctx, attempt, record(kit, attempt, 0), kit.settings.quota.bytes, room)
        attempt.reserved = image.size or 0
        async with kit.outflow.reading(image, sources, []) as reader:
            facts = await kit.intake.take_in(attempt, reader.blocks(), Bounds(image.size, image.size or 0))
        await kit.lease.held()
        try:
            await kit.db.write(_finish, ctx, attempt, facts, kit.lease.id)
        except OutcomeUnknown:
            found = await kit.db.read(copies.get, attempt.copy_id)
            if found is None or found.state != "ready":
                raise
    log.get().info("image copied", image=image_id, store=store, size_bytes=facts.size, request=ctx.request_id)


def _begin(conn: Connection, ctx: Context, attempt: Attempt, row: Copy, limit: int, room: Room) -> tuple[Image, list[Copy]]:
    image = reachable(conn, ctx, attempt.image_id, lock=True)
    policy.require(ctx, "copy_image", image)
    if image.status != "active":
        raise StatusConflict("Only images with status active can be targeted for copying")
    found = copies.of_image(conn, image.id)
    if any(c.store == attempt.store and c.state in ("ready", "suspect") for c in found):
        raise BadValue(f"Image is already present at store '{attempt.store}'")
    if any(c.store == attempt.store and c.state == "writing" for c in found):
        raise Conflict(f"Image is being copied to store '{attempt.store}' already.")
    row = msgspec.structs.replace(row, project=image.owner or ctx.project, reserved=image.size or 0)
    require(conn, room, row.reserved, image.id)
    copies.intend(conn, row)
    quota.charge(conn, row.project, row.reserved, limit)
    return image, found


def _finish(conn: Connection, ctx: Context, attempt: Attempt, facts: Facts, me: str) -> None:
    image = images.lock(conn, attempt.image_id)
    if image is None or not copies.finish(conn, attempt.copy_id, me, facts.size):
        raise lost(conn, attempt.image_id)
    if not copies.are_same(conn, image.id, image.digests, attempt.copy_id):
        raise DataUnavailable(f"What was read of image {image.id} is not what its digests say")
    copies.drop_digests(conn, attempt.image_id, attempt.copy_id)  # the first copy's say the same of the same bytes
    image = images.save(conn, image, msgspec.structs.replace(image, stores=[*image.stores, attempt.store]))
    events.add(conn, ctx, "image.update", image, f"copied to store {attempt.store}")


async def remove(kit: Kit, ctx: Context, image_id: str, store: str) -> None:
    """Take an image's copy out of one store, unless it is the last sound one.

    Raises StatusConflict for an unknown store or a status without data, ImageNotFound, Forbidden, NotFound.
    """
    if store not in kit.stores.all:
        raise StatusConflict(f"The selected store {store} is not available on this node.")
    await kit.intake.remove(await kit.db.write(_remove, ctx, image_id, store))


def _remove(conn: Connection, ctx: Context, image_id: str, store: str) -> Copy:
    try:
        image = reachable(conn, ctx, image_id, lock=True)
    except ImageNotFound:
        raise NotFound(f"Failed to find image {image_id}") from None
    policy.require(ctx, "delete_image_location", image)
    if image.status != "active":
        raise StatusConflict(f"Image {image_id} is {image.status}; data can be removed from a store only while it is active.")
    found = [c for c in copies.of_image(conn, image_id) if c.state in ("ready", "suspect", "bad")]
    here = [c for c in found if c.store == store]
    if not here:
        raise NotFound(f"Image {image_id} is not stored in store {store}.")
    if not any(c.state == "ready" for c in found if c.store != store):
        raise Forbidden("Cannot delete image data from the only store containing it. Consider deleting the image instead.")
    copies.condemn(conn, here[0])
    image = images.save(conn, image, msgspec.structs.replace(image, stores=[name for name in image.stores if name != store]))
    events.add(conn, ctx, "image.update", image, f"removed from store {store}")
    return msgspec.structs.replace(here[0], state="deleting")
