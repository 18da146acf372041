"""Built-in users: add, list, remove, give a new password, and find out whether somebody is one."""

from ikon import log, policy
from ikon.context import Context
from ikon.db import users
from ikon.kit import Kit
from ikon.model.user import NewUser, User
from ikon.problems import Conflict, NotFound


async def authenticate(kit: Kit, name: str, password: str, address: str) -> User | None:
    """The user whom name and password prove; None when there is none, be it the name or the password. Raises TooManyTries, Busy."""
    user = await kit.db.read(users.get, name)
    right = await kit.passwords.match(name, password, user.password if user else None, address)
    return user if right else None


async def add(kit: Kit, ctx: Context, new: NewUser) -> None:
    """Add a user. Raises Forbidden, Conflict."""
    policy.require(ctx, "manage_users")
    user = User(new.name, new.project, tuple(new.roles), await kit.passwords.hash(new.password))
    if not await kit.db.write(users.add, user):
        raise Conflict(f"There is a user {new.name!r} already")
    log.get().info("user added", user=new.name, project=new.project, roles=",".join(new.roles), request=ctx.request_id)


async def browse(kit: Kit, ctx: Context, after: str) -> list[User]:
    """One page of the users, by name, behind the name `after`. Raises Forbidden."""
    policy.require(ctx, "manage_users")
    return await kit.db.read(users.page, after, kit.settings.limits.page_max)


async def set_password(kit: Kit, ctx: Context, name: str, password: str) -> None:
    """Replace a user's password; the old one counts for no later request. Raises Forbidden, NotFound."""
    policy.require(ctx, "manage_users")
    if not await kit.db.write(users.set_password, name, await kit.passwords.hash(password)):
        raise NotFound(f"No user {name!r}")
    log.get().info("password changed", user=name, request=ctx.request_id)


async def remove(kit: Kit, ctx: Context, name: str) -> None:
    """Remove a user, at once; the project keeps its images. Raises Forbidden, NotFound."""
    policy.require(ctx, "manage_users")
    if not await kit.db.write(users.remove, name):
        raise NotFound(f"No user {name!r}")
    log.get().info("user removed", user=name, request=ctx.request_id)
