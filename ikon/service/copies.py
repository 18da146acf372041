"""Copies of an image's bytes in several stores: take one away. One more is made by a job, see imports."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from ikon import policy
from ikon.context import Context
from ikon.db import copies, events, images
from ikon.db.copies import LISTED, Copy
from ikon.kit import Kit
from ikon.problems import Forbidden, ImageNotFound, NotFound, StatusConflict
from ikon.service.images import reachable


async def remove(kit: Kit, ctx: Context, image_id: str, store: str) -> None:
    """Take an image's copy out of one store, unless it is the last sound one.

    Raises StatusConflict for an unknown store or a status without data, ImageNotFound, Forbidden, NotFound.
    """
    if store not in kit.stores.all:
        raise StatusConflict(f"The selected store {store} is not available on this node.")
    for copy in await kit.db.write(_remove, kit, ctx, image_id, store):
        kit.intake.attempts.stop(copy.id)
        await kit.intake.remove(copy)


def _remove(conn: Connection, kit: Kit, ctx: Context, image_id: str, store: str) -> list[Copy]:
    try:
        image = reachable(conn, ctx, image_id, lock=True)
    except ImageNotFound:
        raise NotFound(f"Failed to find image {image_id}") from None
    policy.require(ctx, "delete_image_location", image)
    if image.status != "active":
        raise StatusConflict(f"Image {image_id} is {image.status}; data can be removed from a store only while it is active.")
    found = [c for c in copies.of_image(conn, image_id) if c.state in LISTED]
    here = [c for c in found if c.store == store]
    if not here:
        raise NotFound(f"Image {image_id} is not stored in store {store}.")
    if not all(is_spare(kit, copy, [c for c in found if c.store != store]) for copy in here):
        raise Forbidden("Cannot delete image data from the only store containing it. Consider deleting the image instead.")
    for copy in here:
        copies.condemn(conn, copy)
    here = [copy for copy in here if copy.state != "unchecked"]
    image = images.save(conn, image, msgspec.structs.replace(image, stores=[name for name in image.stores if name != store]))
    events.add(conn, ctx, "image.update", image, f"removed from store {store}")
    return [msgspec.structs.replace(copy, state="deleting") for copy in here]


def is_spare(kit: Kit, copy: Copy, rest: Sequence[Copy]) -> bool:
    """Whether an image can do without a copy, with these left: bytes of ours stay until others are known to be right."""
    store = kit.stores.find(copy.store)
    enough = ("ready", "unchecked") if store is not None and store.read_only else ("ready",)
    return any(each.state in enough for each in rest)
