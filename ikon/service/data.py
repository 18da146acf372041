"""Image data: upload and download."""

import contextlib
import uuid
from collections.abc import AsyncIterable, AsyncIterator

import msgspec
from sqlalchemy import Connection

from ikon import log, policy
from ikon.context import Context
from ikon.db import copies, events, images
from ikon.db.copies import Copy
from ikon.db.engine import be_sure
from ikon.formats.inspector import Inspector
from ikon.kit import Kit
from ikon.model.image import Image, require_formats
from ikon.model.signature import Proof, require_same
from ikon.problems import BadValue, Forbidden, ImageTooLarge, OutcomeUnknown
from ikon.service.images import reachable
from ikon.signatures import verifier
from ikon.stores.registry import STAGING
from ikon.transfer.attempts import Attempt
from ikon.transfer.intake import Bounds, Facts, lost
from ikon.transfer.outflow import Reader
from ikon.transfer.room import Room, require


async def upload(kit: Kit, ctx: Context, image_id: str, blocks: AsyncIterable[bytes], *, store: str | None, size: int | None) -> None:
    """Write an image's bytes to one store and make the image active. size: bytes that the client announced, None when it did not.

    Raises ImageNotFound, Forbidden, BadValue, StatusConflict, ImageTooLarge, QuotaExceeded, FormatMismatch, UnsafeImage, SignatureRefused,
    KeyManagerDown, StoreFull, RoomPromised, StoreDenied, StoreDown, ClientGone, ImageDeleted. When it fails the image is queued again with
    the reason; what the store kept is named by a copies row until it is gone.
    """
    attempt = new_attempt(kit, image_id, kit.stores.choose(store))
    most = kit.settings.limits.image_bytes
    room = await kit.intake.rooms.measure(attempt.store)
    async with kit.intake.undoing(ctx, attempt):
        image, copy = await kit.db.write(_begin, ctx, attempt, record(kit, attempt, size or 0), size, most, room)
        attempt.reserved = copy.reserved
        proof = await kit.signatures.proof(ctx, image.properties, image_id) if kit.signatures else None
        inspector = Inspector(image.disk_format or "", image.container_format or "", kit.settings.formats)
        facts = await kit.intake.take_in(attempt, blocks, Bounds(size, most), inspector, witness=verifier(proof, image_id))
        await kit.lease.held()
        try:
            await kit.db.write(_finish, ctx, attempt, facts, proof, kit.lease.id)
        except OutcomeUnknown:
            if not await kit.db.read(_is_ready, attempt.copy_id):
                raise
    log.get().info("image uploaded", image=image_id, store=attempt.store, size_bytes=facts.size, request=ctx.request_id)


def new_attempt(kit: Kit, image_id: str, store: str) -> Attempt:
    """An attempt with a name of its own, so that no other's late write or delete can touch its bytes."""
    copy_id = str(uuid.uuid4())
    return Attempt(image_id, copy_id, store, kit.stores[store].url(image_id, copy_id))


def record(kit: Kit, attempt: Attempt, reserved: int) -> Copy:
    """The row that names an attempt's bytes before there are any."""
    return Copy(
        id=attempt.copy_id,
        image_id=attempt.image_id,
        store=attempt.store,
        node=kit.lease.node if kit.stores[attempt.store].local else None,
        url=attempt.url,
        state="writing",
        instance=kit.lease.id,
        project=None,
        reserved=reserved,
        size=None,
        created=images.now_us() // 1000,
        verified_at=None,
        tries=0,
        not_before=0,
    )


def _begin(conn: Connection, ctx: Context, attempt: Attempt, copy: Copy, size: int | None, most: int, room: Room) -> tuple[Image, Copy]:
    image = reachable(conn, ctx, attempt.image_id, lock=True)
    policy.require(ctx, "upload_image", image)
    if image.status == "queued":
        require_formats(image)
    image = images.move(conn, image, "queued", "saving")
    if size is not None and size > most:
        raise ImageTooLarge(f"The incoming image is too large: {size} bytes are announced, {most} are allowed")
    copy = msgspec.structs.replace(copy, project=image.owner or ctx.project)
    require(conn, room, copy.reserved, image.id)
    copies.intend(conn, copy)  # the row before the bytes: docs/design/invariants.md, 1
    events.add(conn, ctx, "image.prepare", image, attempt.store)
    return image, copy


def _finish(conn: Connection, ctx: Context, attempt: Attempt, facts: Facts, proof: Proof | None, me: str) -> None:
    image = images.lock(conn, attempt.image_id)
    if image is None or not copies.finish(conn, attempt.copy_id, me, facts.size):
        raise lost(conn, attempt.image_id)
    require_same(image.properties, proof)
    image = images.move(
        conn,
        image,
        "saving",
        "active",
        size=facts.size,
        virtual_size=facts.verdict.virtual_size if facts.verdict else None,
        checksum=facts.checksum,
        os_hash_algo=facts.os_hash_algo,
        os_hash_value=facts.os_hash_value,
        digests=attempt.copy_id,
        reason=None,
        stores=[attempt.store],
    )
    drop_staged(conn, image.id)  # what a failed import has left
    events.add(conn, ctx, "image.activate", image, f"the data is {facts.verdict.format}" if facts.verdict else None)


def drop_staged(conn: Connection, image_id: str, keep: str | None = None) -> None:
    """Have an image's staged data deleted, but for one copy, and what is being written: that is its writer's. Refused locations go too."""
    for copy in copies.of_image(conn, image_id):
        if (copy.store == STAGING and copy.id != keep and copy.state != "writing") or copy.state == "bad":
            copies.condemn(conn, copy)


def _is_ready(conn: Connection, copy_id: str) -> bool:
    copy = copies.get(conn, copy_id)
    return copy is not None and copy.state == "ready"


@contextlib.asynccontextmanager
async def download(kit: Kit, ctx: Context, image_id: str, prefer: list[str]) -> AsyncIterator[tuple[Image, Reader]]:
    """An image and a reader of its bytes. prefer: stores to read from first. A reader of an image without data must not be read.

    Raises ImageNotFound, Forbidden, BadValue for a store that is not configured.
    """
    for store in prefer:
        if store not in kit.stores.all:
            raise BadValue(f"Store '{store}' is not configured.")
    image, found = await kit.outflow.look_up(_find, ctx, image_id)
    async with kit.outflow.reading(image, found, prefer) as reader:
        yield image, reader


def _find(conn: Connection, ctx: Context, image_id: str) -> tuple[Image, list[Copy]]:
    image = reachable(conn, ctx, image_id)
    policy.require(ctx, "download_image", image)
    if image.status == "deactivated" and not ctx.admin:
        raise Forbidden("The requested image has been deactivated. Image data download is forbidden.")
    if not has_data(image):
        be_sure(conn)
    return image, copies.of_image(conn, image_id)


def has_data(image: Image) -> bool:
    """Whether the image's data may be served: it is whole, and known by its digest."""
    return image.status in ("active", "deactivated")
