"""Hold images' properties against the metadata definitions that the caller sees: on request, and before they are written."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from ikon import policy, protection
from ikon.context import Context
from ikon.db.definitions import Known
from ikon.kit import Kit
from ikon.model.image import BASE, Image
from ikon.model.lint import Finding
from ikon.model.metadef import Namespace, visible
from ikon.model.patch import Change
from ikon.problems import PropertyRefused
from ikon.service.images import reachable

#: Findings that a refusal or a warning tells of.
TOLD = 5
#: Rules that must let a caller read a namespace, for it to count.
READ = ("get_metadef_namespace", "get_metadef_properties", "get_metadef_objects")


async def look(kit: Kit, ctx: Context, image_id: str) -> tuple[Image, list[Finding]]:
    """An image, and what does not fit in its properties. Raises ImageNotFound."""
    return await kit.db.read(_look, kit.definitions, ctx, image_id)


def _look(conn: Connection, known: Known, ctx: Context, image_id: str) -> tuple[Image, list[Finding]]:
    image = reachable(conn, ctx, image_id)
    return image, _readable(ctx, known.of(conn, _seen(ctx)).check(protection.readable(ctx, image.properties)))


def _seen(ctx: Context) -> Callable[[Namespace], bool]:
    return lambda namespace: visible(ctx, namespace) and all(policy.allows(ctx, action, namespace) for action in READ)


async def before_create(kit: Kit, ctx: Context, properties: Mapping[str, str]) -> list[str]:
    """What the caller is to be warned of who gives a new image these properties. Raises PropertyRefused, as the setting says."""
    if kit.settings.metadefs.check == "off" or not properties:
        return []
    return _told(kit, await kit.db.read(_of_new, kit.definitions, ctx, properties))


def _of_new(conn: Connection, known: Known, ctx: Context, properties: Mapping[str, str]) -> list[Finding]:
    return _readable(ctx, known.of(conn, _seen(ctx)).check(properties))


async def before_update(kit: Kit, ctx: Context, image_id: str, changes: Sequence[Change]) -> list[str]:
    """The same of changes to an image: of what they touch, not of what was there. Raises ImageNotFound, Forbidden, PropertyRefused."""
    touched = [change for change in changes if change.name not in BASE]
    if kit.settings.metadefs.check == "off" or not touched:
        return []
    return _told(kit, await kit.db.read(_of_changed, kit.definitions, ctx, image_id, touched))


def _of_changed(conn: Connection, known: Known, ctx: Context, image_id: str, touched: Sequence[Change]) -> list[Finding]:
    image = reachable(conn, ctx, image_id)
    policy.require(ctx, "modify_image", image)
    removed = {change.name for change in touched if change.op == "remove"}
    properties = {name: value for name, value in protection.readable(ctx, image.properties).items() if name not in removed}
    properties |= {change.name: change.value for change in touched if change.op != "remove"}
    return _readable(ctx, known.of(conn, _seen(ctx)).check(properties, [change.name for change in touched]))


def _readable(ctx: Context, found: Sequence[Finding]) -> list[Finding]:
    """What is found but for properties that the caller may not read: whether those are there is not for the caller to know."""
    return [finding for finding in found if protection.may(ctx, "read", finding.property)]


def _told(kit: Kit, found: Sequence[Finding]) -> list[str]:
    told = [f"{finding.problem}; {finding.remedy}" for finding in found[:TOLD]]
    if len(found) > TOLD:
        told.append(f"and {len(found) - TOLD} more")
    if told and kit.settings.metadefs.check == "refuse":
        raise PropertyRefused(". ".join(told))
    return told
