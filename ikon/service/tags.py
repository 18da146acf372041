"""Tags, one at a time."""

import msgspec
from sqlalchemy import Connection

from ikon import policy
from ikon.context import Context
from ikon.db import events, images
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.problems import NotFound, QuotaExceeded
from ikon.service.images import reachable


async def add(kit: Kit, ctx: Context, image_id: str, tag: str) -> None:
    """Tag an image; one that has the tag stays as it is. Raises ImageNotFound, Forbidden, QuotaExceeded."""
    await kit.db.write(_add, ctx, image_id, tag, kit.settings.limits.tags)


def _add(conn: Connection, ctx: Context, image_id: str, tag: str, most: int) -> None:
    image = reachable(conn, ctx, image_id, lock=True)
    policy.require(ctx, "modify_image", image)
    if tag in image.tags:
        return
    if len(image.tags) >= most:
        raise QuotaExceeded(
            f"Image tag limit exceeded for image {image_id}: The limit has been exceeded on the number of allowed image tags. "
            f"Attempted: {len(image.tags) + 1}, Maximum: {most}"
        )
    _save(conn, ctx, image, [*image.tags, tag])


async def remove(kit: Kit, ctx: Context, image_id: str, tag: str) -> None:
    """Take a tag off an image. Raises ImageNotFound, Forbidden, NotFound for a tag that it does not have."""
    await kit.db.write(_remove, ctx, image_id, tag)


def _remove(conn: Connection, ctx: Context, image_id: str, tag: str) -> None:
    image = reachable(conn, ctx, image_id, lock=True)
    policy.require(ctx, "modify_image", image)
    # the other spelling: images that come from elsewhere may have tags whose UTF-8 was once read as Latin-1
    for spelling in (tag, tag.encode().decode("latin-1")):
        if spelling in image.tags:
            _save(conn, ctx, image, [kept for kept in image.tags if kept != spelling])
            return
    raise NotFound(f"Image {image_id} has no tag {tag}.")


def _save(conn: Connection, ctx: Context, image: Image, tags: list[str]) -> None:
    events.add(conn, ctx, "image.update", images.save(conn, image, msgspec.structs.replace(image, tags=tags)))
