"""Image records: create, show, list, change, delete, deactivate."""

import time
import uuid
from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection

from ikon import log, policy, protection
from ikon.config import Limits
from ikon.context import Context
from ikon.db import copies, events, images, jobs, lists, trash
from ikon.db.copies import Copy
from ikon.kit import Kit
from ikon.model.image import Image, Importing, New, check_counts, visible
from ikon.model.listing import Listing, nothing
from ikon.model.patch import Change, apply
from ikon.problems import Busy, Forbidden, ImageNotFound, TooSlow, VersionMismatch

#: Microseconds tried when the one an image was created in is taken.
K_TRIES = 100
#: What a patch changes beside the record: given the image as it was and as it will be saved, returns the latter.
Then = Callable[[Connection, Image, Image], Image]
#: States of copies that go to the trash with their image.
KEPT = ("ready", "suspect", "bad")


async def create(kit: Kit, ctx: Context, new: New, then: Callable[[Connection, Image], Image] = lambda conn, image: image) -> Image:
    """Register an image without data. then: what else its transaction does with it. Raises Forbidden, QuotaExceeded, ImageExists."""
    owner = new.base.owner if new.owner_given else ctx.project
    if not ctx.admin and (ctx.project is None or (new.owner_given and owner != ctx.project)):
        policy.require(ctx, "add_image")
        raise Forbidden(f"You are not permitted to create images owned by '{owner}'")
    image = _fresh(new, owner)
    policy.require(ctx, "add_image", image)
    protection.require_creatable(ctx, image.properties)
    _require_visibility(ctx, image, "shared")
    check_counts(len(image.properties), len(image.tags), (kit.settings.limits.properties, kit.settings.limits.tags))
    for _ in range(K_TRIES):
        try:
            return await kit.db.write(_insert, ctx, image, then)
        except images.TakenK:
            image = msgspec.structs.replace(image, k=image.k + 1)
    raise Busy("Too many images are being created in this microsecond", retry_after_s=1)


def _fresh(new: New, owner: str | None) -> Image:
    base, now = new.base, images.now_us()
    return Image(
        k=now,
        id=new.id or str(uuid.uuid4()),
        owner=owner,
        visibility=base.visibility,
        os_hidden=base.os_hidden,
        status="queued",
        name=base.name,
        disk_format=base.disk_format,
        container_format=base.container_format,
        size=None,
        virtual_size=None,
        min_disk=base.min_disk,
        min_ram=base.min_ram,
        protected=base.protected,
        checksum=None,
        os_hash_algo=None,
        os_hash_value=None,
        updated=now,
        version=1,
        reason=None,
        digests=None,
        properties=new.properties,
        tags=base.tags,
        stores=[],
        members={},
    )


def _insert(conn: Connection, ctx: Context, image: Image, then: Callable[[Connection, Image], Image]) -> Image:
    images.insert(conn, image)
    events.add(conn, ctx, "image.create", image)
    return then(conn, image)


def _require_visibility(ctx: Context, image: Image, was: str) -> None:
    if image.visibility != was:
        if image.visibility == "public":
            policy.require(ctx, "publicize_image", image)
        elif image.visibility == "community":
            policy.require(ctx, "communitize_image", image)


def reachable(conn: Connection, ctx: Context, image_id: str, *, lock: bool = False) -> Image:
    """The image, if the caller may see it. Raises ImageNotFound, NotFound."""
    image = images.lock(conn, image_id) if lock else images.get(conn, image_id)
    if image is None or not visible(ctx, image):
        raise ImageNotFound(image_id)
    policy.require(ctx, "get_image", image)
    return image


async def show(kit: Kit, ctx: Context, image_id: str) -> Image:
    """One image's record. Raises ImageNotFound."""
    return await kit.db.read(reachable, ctx, image_id)


async def browse(kit: Kit, ctx: Context, listing: Listing) -> list[Image]:
    """One page of the images that the caller sees. Raises BadValue for a marker that is not among them, TooSlow."""
    policy.require(ctx, "get_images")
    if listing.limit == 0:
        return []
    kept = (each if each.property is None or protection.may(ctx, "read", each.property) else nothing() for each in listing.filters)
    listing = msgspec.structs.replace(listing, filters=tuple(kept))
    # an operator's rules may name what no index knows
    walk = lists.Walk(ctx, listing, lambda image: policy.allows(ctx, "get_image", image))
    deadline = time.monotonic() + kit.settings.limits.list_s
    while not await kit.db.read(walk.resume):  # a long walk gives way to others between its steps
        if time.monotonic() > deadline:
            raise TooSlow("The list was given up: too many images had to be looked at for these filters.")
    return walk.found


async def places(kit: Kit, ctx: Context, found: Sequence[Image]) -> dict[str, list[Copy]]:
    """The locations of these images, the one that is read first in front, by the images' ids.

    Only of those whose places the caller may see, and none where no setting shows them.
    """
    if not (kit.settings.show_locations or kit.settings.show_direct_url):
        return {}
    ids = [image.id for image in found if policy.allows(ctx, "get_image_location", image)]
    there = await kit.db.read(copies.listed, ids) if ids else {}
    return {image_id: in_order(kit, there.get(image_id, [])) for image_id in ids}


def in_order(kit: Kit, found: Sequence[Copy]) -> list[Copy]:
    """Locations in the order in which they are shown: by weight of their store, then by age; without those of no store here."""
    here = [copy for copy in found if copy.store in kit.stores.all]
    return sorted(here, key=lambda copy: (-kit.stores.weight(copy.store), copy.created, copy.id))


async def update(
    kit: Kit, ctx: Context, image_id: str, changes: list[Change], if_match: Sequence[str] | None, then: Then | None = None
) -> Image:
    """Apply a patch, all of it or nothing. if_match: versions of which the image must have one, or None. then: what else it changes.

    Raises ImageNotFound, Forbidden, ReadOnly, Conflict, QuotaExceeded, VersionMismatch. Without changes nothing is saved.
    """
    if not changes and if_match is None and then is None:
        return await show(kit, ctx, image_id)
    return await kit.db.write(_update, ctx, image_id, changes, if_match, kit.settings.limits, then)


def _update(
    conn: Connection,
    ctx: Context,
    image_id: str,
    changes: list[Change],
    if_match: Sequence[str] | None,
    limits: Limits,
    then: Then | None,
) -> Image:
    image = reachable(conn, ctx, image_id, lock=True)
    if if_match is not None and str(image.version) not in if_match:
        raise VersionMismatch
    if not changes and then is None:
        return image
    if changes:
        policy.require(ctx, "modify_image", image)
    changed = apply(image, changes, admin=ctx.admin, may=lambda operation, name: protection.may(ctx, operation, name))
    _require_visibility(ctx, msgspec.structs.replace(changed, owner=image.owner), image.visibility)
    grew = changed.properties.keys() - image.properties.keys()
    tags = len(changed.tags) if changed.tags != image.tags else None
    # a number that counts what the caller may not read would tell of it
    seen = len(protection.readable(ctx, changed.properties)) if grew else None
    check_counts(seen, tags, (limits.properties, limits.tags))
    if then is not None:
        changed = then(conn, image, changed)
    saved = images.save(conn, image, changed)
    if saved.owner != image.owner:
        copies.give(conn, saved.id, saved.owner)  # whoever has an image has its bytes
    events.add(conn, ctx, "image.update" if saved.status == image.status else "image.activate", saved)
    return saved


async def delete(kit: Kit, ctx: Context, image_id: str) -> None:
    """Delete an image in any status. Running uploads of it end; bytes that cannot be deleted at once are deleted later.

    Where the trash is on, an image with data goes there, its sound copies kept. Raises ImageNotFound, Forbidden.
    """
    for copy in await kit.db.write(_delete, ctx, image_id, 1000 * kit.settings.trash.keep_s):
        kit.intake.attempts.stop(copy.id)  # one in another process learns at its next look
        if copy.state not in ("writing", "unchecked"):  # its own task deletes what it wrote; what nobody looked at is not ours
            await kit.intake.remove(copy)
    log.get().info("image deleted", image=image_id, request=ctx.request_id)


def _delete(conn: Connection, ctx: Context, image_id: str, keep_ms: int) -> list[Copy]:
    """keep_ms: how long the image is kept in the trash, 0: not at all. Returns the copies whose bytes are to go."""
    image = reachable(conn, ctx, image_id, lock=True)
    policy.require(ctx, "delete_image", image)
    if image.protected:
        raise Forbidden(f"Image {image_id} is protected and cannot be deleted.")
    found = copies.of_image(conn, image_id)
    worth = image.status in ("active", "deactivated") and any(c.state in copies.READABLE for c in found)
    kept = [c for c in found if c.state in KEPT] if keep_ms and worth else []
    doomed = [copy for copy in found if copy not in kept]
    for copy in doomed:
        copies.condemn(conn, copy)
    if image.importing.job is not None:
        jobs.cancel(conn, image.importing.job)
    images.delete(conn, image)
    was = {"was": image.status, "owner": image.owner} | ({"text": f"kept in the trash for {keep_ms // 1000} s"} if kept else {})
    image = msgspec.structs.replace(image, version=image.version + 1, importing=Importing(known=image.importing.known))
    if kept:
        trash.put(conn, image, keep_ms)
    events.add(conn, ctx, "image.delete", image, msgspec.json.encode(was).decode())
    return doomed


async def deactivate(kit: Kit, ctx: Context, image_id: str) -> None:
    """Stop serving an image's data to anyone but administrators. Raises ImageNotFound, Forbidden."""
    await kit.db.write(_switch, ctx, image_id, "deactivate", "active", "deactivated")


async def reactivate(kit: Kit, ctx: Context, image_id: str) -> None:
    """Serve a deactivated image's data again. Raises ImageNotFound, Forbidden."""
    await kit.db.write(_switch, ctx, image_id, "reactivate", "deactivated", "active")


def _switch(conn: Connection, ctx: Context, image_id: str, action: str, old: str, new: str) -> None:
    image = reachable(conn, ctx, image_id, lock=True)
    policy.require(ctx, action, image)
    if image.status == new:
        return
    if image.status != old:
        raise Forbidden(f"Not allowed to {action} image in status '{image.status}'")
    events.add(conn, ctx, "image.update", images.move(conn, image, old, new))
