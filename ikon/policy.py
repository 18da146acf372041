"""What each role may do: one rule for each operation, asked in one place, inside the verb.

The defaults are those of the OpenStack Image API's personas: reader sees, member changes what its project owns, admin everything.
"""

from collections.abc import Callable

from ikon.context import Context
from ikon.model.image import Image, shared
from ikon.problems import Forbidden, NotFound

#: Who asks, for which image, and for which project's entry in its list of members.
Rule = Callable[[Context, Image | None, str | None], bool]


def _admin(ctx: Context, image: Image | None, member: str | None) -> bool:
    return ctx.admin


def _in_project(role: str) -> Rule:
    """Role in the project that the image belongs to; for operations without an image, in any project."""

    def rule(ctx: Context, image: Image | None, member: str | None) -> bool:
        if ctx.admin:
            return True
        here = ctx.project is not None and (image is None or image.owner == ctx.project)
        return role in ctx.roles and here and not ctx.system_scope

    return rule


def _wherever_visible(role: str) -> Rule:
    """Role in any project; which images a project sees at all is decided before."""

    def rule(ctx: Context, image: Image | None, member: str | None) -> bool:
        return ctx.admin or (role in ctx.roles and ctx.project is not None and not ctx.system_scope)

    return rule


def _shared_with(role: str) -> Rule:
    """Role in a project that the image is shared with, for that project's own entry alone."""

    def rule(ctx: Context, image: Image | None, member: str | None) -> bool:
        own = image is not None and shared(ctx, image) and member in (None, ctx.project)
        return ctx.admin or (role in ctx.roles and own and not ctx.system_scope)

    return rule


def _either(one: Rule, other: Rule) -> Rule:
    return lambda ctx, image, member: one(ctx, image, member) or other(ctx, image, member)


def _admin_or_service(ctx: Context, image: Image | None, member: str | None) -> bool:
    return ctx.admin or "service" in ctx.roles


RULES: dict[str, Rule] = {
    "add_image": _in_project("member"),
    "get_images": _in_project("reader"),
    "get_image": _wherever_visible("reader"),
    "modify_image": _in_project("member"),
    "delete_image": _in_project("member"),
    "upload_image": _in_project("member"),
    "download_image": _wherever_visible("member"),
    "publicize_image": _admin,
    "communitize_image": _in_project("member"),
    "get_image_location": _in_project("reader"),
    "delete_image_location": _admin,
    "copy_image": _admin,
    "get_image_tasks": _in_project("reader"),
    "get_image_timeline": _in_project("reader"),
    "tasks_api_access": _admin,
    "add_member": _in_project("member"),
    "get_member": _either(_in_project("reader"), _shared_with("reader")),
    "get_members": _either(_in_project("reader"), _shared_with("reader")),
    "modify_member": _shared_with("member"),
    "delete_member": _either(_in_project("member"), _shared_with("member")),
    "deactivate": _in_project("member"),
    "reactivate": _in_project("member"),
    "stores_info_detail": _admin_or_service,
    "manage_users": _admin,
    "manage_jobs": _admin,
    "manage_trash": _admin,
    "manage_periodic": _admin,
}


def allows(ctx: Context, action: str, image: Image | None = None, member: str | None = None) -> bool:
    """Whether the rule of an operation lets this caller do it, to the image and the project's entry that it is about, if any."""
    return RULES[action](ctx, image, member)


def require(ctx: Context, action: str, image: Image | None = None, member: str | None = None) -> None:
    """Raises Forbidden unless the rule allows it; for an image that the caller may not even look at, NotFound."""
    if not allows(ctx, action, image, member):
        if action == "get_image":
            raise NotFound("The resource could not be found.")
        raise Forbidden(f"You are not authorized to complete {action} action.")
