"""What projects hold and may hold: a project looks at its own, operators at all, and limit single ones."""

from ikon import log, policy
from ikon.context import Context
from ikon.db import usage
from ikon.kit import Kit
from ikon.model.quota import PROJECT, RESOURCES, Limits, OwnLimits, Quota, Usage
from ikon.problems import BadValue, Conflict


async def of_caller(kit: Kit, ctx: Context) -> tuple[Usage, Limits] | None:
    """What the caller's project holds and may hold; None where no quotas are kept, or the caller has no project. Raises IdentityDown."""
    if not kit.quotas.kept or ctx.project is None:
        return None
    held, own = await _look(kit, ctx.project)
    return held, await _limits(kit, ctx.project, own)


async def browse(kit: Kit, ctx: Context, after: str) -> list[Quota]:
    """One page of the projects that hold something or are limited by themselves, by id. Limits of Keystone are not asked for.

    Raises Forbidden, Conflict where no quotas are kept.
    """
    _require(kit, ctx)
    found = await kit.db.read(usage.page, after, kit.settings.limits.page_max)
    known = [(project, held or await _counted(kit, project), own) for project, held, own in found]  # one by one: a sum may take long
    return [Quota(project, held, own, None if kit.quotas.elsewhere else own.over(kit.quotas.defaults)) for project, held, own in known]


async def show(kit: Kit, ctx: Context, project: str) -> Quota:
    """All about one project. Raises Forbidden, BadValue, Conflict where no quotas are kept, IdentityDown."""
    _require(kit, ctx)
    held, own = await _look(kit, _checked(project))
    return Quota(project, held, own, await _limits(kit, project, own))


async def limit(kit: Kit, ctx: Context, project: str, own: dict[str, int | None]) -> None:
    """Give a project limits of its own, by name; None takes one back. They count at once, and take nothing away that is there.

    Raises Forbidden, BadValue, Conflict where no quotas are kept, or Keystone sets them.
    """
    _require(kit, ctx)
    if kit.quotas.elsewhere:
        raise Conflict("Limits are set in Keystone, as [quota] from_keystone says: openstack limit create, openstack limit set")
    await kit.db.write(usage.limit, _checked(project), own)
    log.get().info("project limited", project=project, request=ctx.request_id, **own)


async def unlimit(kit: Kit, ctx: Context, project: str) -> None:
    """Take a project's own limits back, so that those of all hold for it. Raises as `limit`."""
    await limit(kit, ctx, project, {each.name: None for each in RESOURCES})


async def _look(kit: Kit, project: str) -> tuple[Usage, OwnLimits]:
    held, own = await kit.db.read(usage.look, project)
    return held or await _counted(kit, project), own


async def _counted(kit: Kit, project: str) -> Usage:
    """What a project holds that is not known yet: kept, or whoever looks again would have it counted again."""
    return (await kit.db.write(usage.mend, project))[0]


async def _limits(kit: Kit, project: str, own: OwnLimits) -> Limits:
    return await kit.quotas.learn(project, anew=False) if kit.quotas.elsewhere else own.over(kit.quotas.defaults)


def _require(kit: Kit, ctx: Context) -> None:
    policy.require(ctx, "manage_quotas")
    if not kit.quotas.kept:
        raise Conflict("No quotas are kept here. Set a limit in [quota], or its key counted, and start the servers again")


def _checked(project: str) -> str:
    if not PROJECT.fullmatch(project):
        raise BadValue("project: an id has 1 to 255 characters, and no control characters")
    return project
