"""Sharing: which projects an image is shared with, and what they answer.

Members are part of the image's row and change under its lock. They count while its visibility is "shared"; otherwise they stay, unseen.
"""

import msgspec
from sqlalchemy import Connection

from ikon import policy
from ikon.context import Context
from ikon.db import events, images
from ikon.kit import Kit
from ikon.model.image import Image, Member
from ikon.model.member import MemberStatus
from ikon.problems import Conflict, Forbidden, NotFound, QuotaExceeded
from ikon.service.images import reachable

ONLY_SHARED = "Only shared images have members."


async def share(kit: Kit, ctx: Context, image_id: str, project: str) -> Member:
    """Let one more project see an image; it has not answered yet. Nobody looks whether there is such a project.

    Raises ImageNotFound, Forbidden, Conflict, QuotaExceeded.
    """
    return await kit.db.write(_share, ctx, image_id, project, kit.settings.limits.members)


def _share(conn: Connection, ctx: Context, image_id: str, project: str, most: int) -> Member:
    image = _shared(conn, ctx, image_id, "create", lock=True)
    policy.require(ctx, "add_member", image, project)
    if project in image.members:
        raise Conflict(f"Member {project} is duplicated for image {image_id}")
    if len(image.members) >= most:
        raise QuotaExceeded(
            f"Image member limit exceeded for image {image_id}: The limit has been exceeded on the number of allowed image members "
            f"for this image. Attempted: {len(image.members) + 1}, Maximum: {most}"
        )
    now = images.now_us()
    entry = Member("pending", now, now)
    _save(conn, ctx, image, image.members | {project: entry}, "create", project, entry)
    return entry


async def browse(kit: Kit, ctx: Context, image_id: str) -> dict[str, Member]:
    """The entries that the caller sees, by project: the owner and administrators all, a member its own. Raises ImageNotFound, Forbidden."""
    return await kit.db.read(_browse, ctx, image_id)


def _browse(conn: Connection, ctx: Context, image_id: str) -> dict[str, Member]:
    image = _shared(conn, ctx, image_id, "list")
    policy.require(ctx, "get_members", image)
    return {project: entry for project, entry in image.members.items() if policy.allows(ctx, "get_member", image, project)}


async def show(kit: Kit, ctx: Context, image_id: str, project: str) -> Member:
    """One project's entry. Raises ImageNotFound, NotFound."""
    return await kit.db.read(_show, ctx, image_id, project)


def _show(conn: Connection, ctx: Context, image_id: str, project: str) -> Member:
    image = reachable(conn, ctx, image_id)
    if image.visibility != "shared":
        raise NotFound(ONLY_SHARED)
    return _entry(ctx, image, project)


async def answer(kit: Kit, ctx: Context, image_id: str, project: str, status: MemberStatus) -> Member:
    """Answer for a project; what it has accepted is in its default list. Raises ImageNotFound, NotFound, Forbidden."""
    return await kit.db.write(_answer, ctx, image_id, project, status)


def _answer(conn: Connection, ctx: Context, image_id: str, project: str, status: MemberStatus) -> Member:
    image = _shared(conn, ctx, image_id, "update", lock=True)
    entry = _entry(ctx, image, project)
    policy.require(ctx, "modify_member", image, project)
    entry = Member(status, entry.created, max(images.now_us(), entry.updated))
    _save(conn, ctx, image, image.members | {project: entry}, "update", project, entry)
    return entry


async def remove(kit: Kit, ctx: Context, image_id: str, project: str) -> None:
    """Take a share back, or give one's own up. Raises ImageNotFound, NotFound, Forbidden."""
    await kit.db.write(_remove, ctx, image_id, project)


def _remove(conn: Connection, ctx: Context, image_id: str, project: str) -> None:
    image = _shared(conn, ctx, image_id, "delete", lock=True)
    policy.require(ctx, "delete_member", image, project)
    entry = _entry(ctx, image, project)
    _save(conn, ctx, image, {name: kept for name, kept in image.members.items() if name != project}, "delete", project, entry)


def _shared(conn: Connection, ctx: Context, image_id: str, deed: str, *, lock: bool = False) -> Image:
    """The image, if the caller may see it and it can have members. Raises ImageNotFound, Forbidden."""
    image = reachable(conn, ctx, image_id, lock=lock)
    if image.visibility != "shared":
        raise Forbidden(f"Not allowed to {deed} members for image {image_id}: {ONLY_SHARED}")
    return image


def _entry(ctx: Context, image: Image, project: str) -> Member:
    """A project's entry; one that the caller may not see is one that is not there. Raises NotFound."""
    entry = image.members.get(project)
    if entry is None or not policy.allows(ctx, "get_member", image, project):
        raise NotFound(f"{project} not found in the member list of the image {image.id}.")
    return entry


def _save(conn: Connection, ctx: Context, image: Image, members: dict[str, Member], deed: str, project: str, entry: Member) -> None:
    saved = images.save(conn, image, msgspec.structs.replace(image, members=members), touch=False)
    detail = msgspec.json.encode({"member_id": project, "status": entry.status}).decode()
    events.add(conn, ctx, f"image.member.{deed}", saved, detail)
