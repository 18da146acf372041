"""Locations: places that callers name as having an image's data. Nothing of it is served before a job has read it all and found it right.

With a request of its own the image becomes active then; by a patch, as older clients do it, at once, though without data until then.
"""

import asyncio
import functools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from ikon import log, policy
from ikon.context import Context
from ikon.db import copies, events, images, jobs
from ikon.db.copies import LISTED, Copy
from ikon.kit import Kit
from ikon.model.image import Image, Importing, require_formats, visible
from ikon.model.imports import LOCATION
from ikon.model.job import ANY, NORMAL, USER, node_queue
from ikon.model.job import New as NewJob
from ikon.model.locations import New, Patch, check_patched, invisible, require_count, require_same
from ikon.model.patch import Change
from ikon.model.signature import Proof, signed
from ikon.model.signature import require_same as require_signed
from ikon.problems import (
    BadValue,
    Conflict,
    Forbidden,
    ImageNotFound,
    ImageTooLarge,
    Problem,
    SignatureRefused,
    SourceNotAllowed,
    StatusConflict,
)
from ikon.queue import new_id
from ikon.service import images as records
from ikon.service.copies import is_spare
from ikon.service.data import drop_staged
from ikon.stores.base import CopyMissing
from ikon.transfer.digests import ALGORITHM

NO_STORE = "http store must be enabled to use location API by normal user."


class _Place(NamedTuple):
    """A store that has a location. foreign: nothing there is ever Ikon's. node: the one that can reach it, None: all."""

    store: str
    foreign: bool = True
    node: str | None = None


async def add(kit: Kit, ctx: Context, image_id: str, new: New) -> None:
    """Name the place of a queued image's data: a job reads it there, and makes the image active if it is right.

    Raises ImageNotFound, NotFound, StatusConflict, Forbidden, BadValue, SignatureRefused, KeyManagerDown.
    """
    store, wrong = _home(kit, ctx, new.url)
    if wrong is None and not kit.stores[store].read_only:
        place = _Place(store, False, kit.lease.node if kit.stores[store].local else None)
    else:
        place = _Place(store)
    job_id, proof = new_id(), None
    if kit.signatures and wrong is None:  # asked for now, while the caller's token is good
        image = await kit.db.read(_reached, ctx, image_id, "add_image_location", ("queued",))
        proof = await kit.signatures.proof(ctx, image.properties, image_id)
    await kit.db.write(_add, ctx, image_id, new, place, wrong, proof, job_id, kit.settings.jobs.deadline_s)
    kit.queue.ring(node_queue(place.node) if place.node else ANY)
    log.get().info("location added", image=image_id, job=job_id, store=store, request=ctx.request_id)


def _home(kit: Kit, ctx: Context, url: str) -> tuple[str, Problem | None]:
    """The store that a URL belongs to, and why this caller may not name it, if so."""
    store = kit.stores.claiming(url)
    if store is not None and kit.stores[store].read_only:
        try:
            kit.fetcher.check(url)
        except SourceNotAllowed:
            return store, BadValue(f"URI for add location does not pass filtering: {url}")
        return store, None
    if "service" not in ctx.roles | ctx.service_roles:
        return "", Forbidden(NO_STORE)  # whether there is such a place is none of their business
    return store or "", None if store else BadValue("Invalid location: it is in no store here, or of Ikon's own making")


def _add(
    conn: Connection,
    ctx: Context,
    image_id: str,
    new: New,
    place: _Place,
    wrong: Problem | None,
    proof: Proof | None,
    job_id: str,
    deadline_s: float,
) -> None:
    image = _reached(conn, ctx, image_id, "add_image_location", ("queued",), lock=True)
    if wrong is not None:
        raise wrong
    require_formats(image)
    require_signed(image.properties, proof)
    drop_staged(conn, image.id)  # what a failed try has left
    copy = _copy(image, place, new, None, 0)
    if not copies.place(conn, copy):
        raise Conflict("The location is another image's")
    changes: dict[str, Any] = {"status": "importing", "reason": None, "stores": [], "size": None}
    image = images.save(conn, image, msgspec.structs.replace(image, **changes, importing=Importing(job_id, [place.store])))
    events.add(conn, ctx, "image.location", image, f"in store {place.store}, to be verified")
    _enqueue(conn, ctx, image, copy, place, job_id, new, deadline_s, proof)


def _reached(conn: Connection, ctx: Context, image_id: str, action: str, statuses: Sequence[str] = (), *, lock: bool = False) -> Image:
    """An image that the caller sees, may do this to, and that is in one of these statuses, if any are named.

    A service sees open images without the right to show them. Raises ImageNotFound, NotFound, StatusConflict, Forbidden.
    """
    image = images.lock(conn, image_id) if lock else images.get(conn, image_id)
    if image is None or not visible(ctx, image):
        raise ImageNotFound(image_id)
    if not ("service" in ctx.roles and policy.allows(ctx, action, image)):
        policy.require(ctx, "get_image", image)
    if statuses and image.status not in statuses:
        raise StatusConflict(f"It's not allowed to add locations if image status is {image.status}.")
    policy.require(ctx, action, image)
    return image


def _copy(image: Image, place: _Place, new: New, size: int | None, n: int) -> Copy:
    """The row of a location. n: how many the image has before it. One that may become Ikon's is one image's alone: by its id."""
    return Copy(
        id=new_id() if place.foreign else str(uuid.uuid5(uuid.NAMESPACE_URL, f"{place.node or place.store} {new.url}")),
        image_id=image.id,
        store=place.store,
        node=place.node,
        url=new.url,
        state="unchecked",
        instance=None,
        project=image.owner,
        reserved=0,
        size=size,
        created=images.now_us() // 1000 + n,  # they are shown in this order
        verified_at=None,
        tries=0,
        not_before=0,
        metadata=_said(new.metadata),
    )


def _said(metadata: Mapping[str, Any]) -> str | None:
    return msgspec.json.encode(metadata).decode() if metadata else None


def _enqueue(
    conn: Connection,
    ctx: Context,
    image: Image,
    copy: Copy,
    place: _Place,
    job_id: str,
    new: New,
    deadline_s: float,
    proof: Proof | None = None,
) -> None:
    """Add the job that reads what is there. Only a request of its own says what an image becomes by it, and what that has to prove."""
    asked: dict[str, Any] = {"method": LOCATION, "uri": new.url}
    if new.validation is not None:
        asked["validation_data"] = msgspec.to_builtins(new.validation)
    proven = {"proof": msgspec.to_builtins(proof)} if proof is not None else {}
    jobs.enqueue(
        conn,
        NewJob(
            id=job_id,
            kind=LOCATION,
            image_id=image.id,
            input={"request": asked, "stores": [copy.store], "copy": copy.id, "foreign": place.foreign, **proven},
            project=image.owner or ctx.project or "",
            store=copy.store,
            queue=node_queue(place.node) if place.node else ANY,
            priority=USER if image.status == "importing" else NORMAL,
            user=ctx.user,
            request_id=ctx.request_id,
            deadline_s=deadline_s,
            total_bytes=copy.size,
        ),
    )


async def show(kit: Kit, ctx: Context, image_id: str) -> list[Copy]:
    """Where an image's data is, for services and administrators. Raises ImageNotFound, NotFound, Forbidden."""
    return records.in_order(kit, await kit.db.read(_listed, ctx, image_id))


def _listed(conn: Connection, ctx: Context, image_id: str) -> list[Copy]:
    image = _reached(conn, ctx, image_id, "fetch_image_location")
    return copies.listed(conn, [image.id]).get(image.id, [])


async def patch(
    kit: Kit, ctx: Context, image_id: str, changes: list[Change], places: Sequence[Patch], if_match: Sequence[str] | None
) -> Image:
    """Apply a patch that changes locations too, all of it or nothing. New ones are asked for their size before.

    Raises what `images.update` does, and BadValue for a location that cannot be.
    """
    if not kit.settings.show_locations:
        raise invisible()
    there = await kit.db.read(_may_patch, ctx, image_id, places, kit.settings.limits.locations)
    wanted = {new.url: new for place in places for new in place.new if new.url not in there}
    if there and any(place.op == "replace" for place in places):
        wanted = {}
    sizes = await _sizes(kit, list(wanted))
    then = functools.partial(_patch, ctx=ctx, kit=kit, places=places, sizes=sizes)
    image = await records.update(kit, ctx, image_id, changes, if_match, then)
    kit.queue.ring()
    return image


def _may_patch(conn: Connection, ctx: Context, image_id: str, places: Sequence[Patch], most: int) -> set[str]:
    """The URLs of the locations that stay. Asked before any URL is, so that nobody has Ikon ask for what may not be added."""
    image = records.reachable(conn, ctx, image_id)
    _require_patch(ctx, image, places)
    kept = copies.listed(conn, [image_id]).get(image_id, []) if image.status != "queued" else []
    there = {copy.url for copy in kept}
    require_count(len(there | {new.url for place in places for new in place.new}), most)
    return there


def _require_patch(ctx: Context, image: Image, places: Sequence[Patch]) -> None:
    for place in places:
        policy.require(ctx, "delete_image_location" if place.op == "remove" else "set_image_location", image)


async def _sizes(kit: Kit, urls: Sequence[str]) -> dict[str, int]:
    """The sizes of all, asked for at once. The first that is wrong ends the others: nobody is asked for a request that is over."""
    try:
        async with asyncio.TaskGroup() as group:
            asked = {url: group.create_task(_size(kit, url)) for url in urls}
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return {url: task.result() for url, task in asked.items()}


async def _size(kit: Kit, url: str) -> int:
    """Bytes that there are at a URL. Raises BadValue, whatever is wrong there: what differs would scan the network for whoever asks."""
    store = kit.stores.claiming(url)
    if store is None or not kit.stores[store].read_only:
        raise BadValue("Invalid location")
    try:
        remote = await kit.stores[store].open(url)
    except (Problem, CopyMissing):
        raise BadValue("The Store URI was malformed.") from None
    remote.close()
    if remote.size > kit.settings.limits.image_bytes:
        raise ImageTooLarge(f"The location has {remote.size} bytes, {kit.settings.limits.image_bytes} are allowed")
    return remote.size


def _patch(
    conn: Connection,
    image: Image,
    changed: Image,
    *,
    ctx: Context,
    kit: Kit,
    places: Sequence[Patch],
    sizes: Mapping[str, int],
) -> Image:
    """What the operations make of a locked image, which is not yet saved."""
    _require_patch(ctx, image, places)
    if image.status == "queued":
        drop_staged(conn, image.id)  # what a failed try has left
    found = [copy for copy in copies.of_image(conn, image.id) if copy.state in LISTED]
    for place in places:
        if place.op == "remove":
            changed = _remove(conn, kit, changed, found, place)
        elif place.op == "replace" and found:
            _describe(conn, found, place)
        elif not place.new:
            raise Forbidden("Cannot set locations to empty list.")
        else:
            for new in place.new:
                changed = _append(conn, ctx, kit, changed, found, new, sizes.get(new.url))
    return changed


def _append(conn: Connection, ctx: Context, kit: Kit, image: Image, found: list[Copy], new: New, size: int | None) -> Image:
    if image.status not in ("queued", "active"):
        raise StatusConflict(f"It's not allowed to add locations if image status is {image.status}.")
    require_formats(image)
    require_count(len(found) + 1, kit.settings.limits.locations)
    if any(copy.url == new.url for copy in found):
        raise BadValue(f"The location {new.url} already exists")
    if size is None:
        raise Conflict("The image's locations have been changed meanwhile. Send the patch again")
    if new.validation is not None:
        check_patched(new.validation, ALGORITHM)
    if image.status == "queued":
        if kit.signatures and signed(image.properties):
            raise SignatureRefused(
                image.id, "a patch shows the image before its data is looked at; add the location by a request of its own"
            )
        given = new.validation
        said = {"checksum": given.checksum, "os_hash_algo": given.os_hash_algo, "os_hash_value": given.os_hash_value} if given else {}
        image = msgspec.structs.replace(image, status="active", size=size, stores=[], reason=None, **said)
    elif new.validation is not None:
        require_same(new.validation, image.checksum, image.os_hash_algo, image.os_hash_value)
    if size != image.size:
        raise BadValue(f"The location has {size} bytes, and the image {image.size}")
    place = _Place(kit.stores.claiming(new.url) or "")
    copy = _copy(image, place, new, size, len(found))
    copies.intend(conn, copy)
    found.append(copy)
    _enqueue(conn, ctx, image, copy, place, new_id(), new, kit.settings.jobs.deadline_s)
    return msgspec.structs.replace(image, stores=_stores(found))


def _remove(conn: Connection, kit: Kit, image: Image, found: list[Copy], place: Patch) -> Image:
    if image.status != "active":
        raise StatusConflict(f"It's not allowed to remove locations if image status is {image.status}.")
    shown = records.in_order(kit, found)
    if place.at is None or place.at >= len(shown):
        raise BadValue("Invalid position for removing a location.")
    gone = shown[place.at]
    rest = [copy for copy in found if copy is not gone]
    if not rest:
        raise Forbidden("Cannot remove last location in the image.")
    if not is_spare(kit, gone, rest):
        raise StatusConflict("No other location of the image has been verified, so that this one has to stay.")
    copies.condemn(conn, gone)  # the reaper deletes what is ours
    found[:] = rest
    return msgspec.structs.replace(image, stores=_stores(found))


def _describe(conn: Connection, found: list[Copy], place: Patch) -> None:
    """Locations are replaced by themselves alone; what is said of them may be new."""
    if not place.new:
        raise Forbidden("Cannot set locations to empty list.")
    said = {new.url: new for new in place.new}
    if len(place.new) != len(found) or said.keys() != {copy.url for copy in found}:
        raise BadValue("Original locations is not empty: they are replaced by the same URLs alone, with other metadata")
    for copy in found:
        copies.describe(conn, copy.id, _said(said[copy.url].metadata))


def _stores(found: Sequence[Copy]) -> list[str]:
    return list(dict.fromkeys(copy.store for copy in sorted(found, key=lambda copy: (copy.created, copy.id))))
